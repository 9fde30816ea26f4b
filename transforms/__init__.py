from .lung_segment import LungSegment, LungSegmentD, LungSegmentd, LungSegmentDict, LungsNotFoundError
