"""Network volumes that outlive a run, and their files.

kept.py       the volume that a spec with `compute.volume.keep` shares: found, made, grown, never deleted
account.py    what `pushtrain volumes` shows and does: list, create, grow, delete
store.py      one volume through RunPod's S3 API; endpoints.py: where there is one, and with which keys
transfer.py   one file to a volume, back, and from one volume to another: resumable, verified; folders.py: many of them
"""
