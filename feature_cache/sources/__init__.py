"""Where the raw media of the paper's seven datasets come from, what of them is on the disk, and how they get there.

provenance.py   what a source is made of, and the table of the seven by name
inventory.py    what is there, compared with what should be
hub.py          the files of a repository on the Hugging Face hub, with their checksums
plan.py         the steps from nothing to the layout: which files, and what is done with them
fetch.py        runs the steps; each can be killed at any point and is not done twice
unpack.py       zip, tar and 7z archives, member by member; split_zip.py: zip archives in several files
clotho.py nyu_depth.py vggsound.py   what single datasets need besides
"""
