. "$IN_CHROOT"
packages python3
inside ln -s python3 /usr/bin/python
finish
