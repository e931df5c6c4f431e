. "$IN_CHROOT"
inside useradd --uid 1000 --create-home --shell /bin/bash jovyan
packages python3-pandas jupyter-notebook
finish
