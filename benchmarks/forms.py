"""The whole pipeline on photographs in every form that people keep them in.

    python benchmarks/forms.py RUN PHOTOGRAPHS --photos 300

PHOTOGRAPHS is a local copy of ``ashraq/fashion-product-images-small``. Some of its footwear is
turned into each form: Parquet in the layout of the hub, class folders, tars of webdataset, and the
exports of three shops. Then ``dvc repro`` runs in a clone of the last commit, with nothing changed
but params.yaml, on the pretrained models of the finished run in the folder RUN. Trainings take few
epochs: what is shown is that the data arrive, and by what labels they are named. The feeds' photos
are fetched from a server of this script, on this machine.
"""
