"""What is written for one study and one run: ``result.json``, maps, pictures, the report, ``summary.csv``.

Nothing here knows of one bundle only: classes, maps and measures that a bundle does not have are None and left out.
"""
