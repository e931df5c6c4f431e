. "$IN_CHROOT"
inside useradd --uid 1000 --create-home --shell /bin/bash node
packages nodejs
finish
