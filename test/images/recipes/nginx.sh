. "$IN_CHROOT"
inside groupadd --system --gid 101 nginx
inside useradd --system --uid 101 --gid nginx --home-dir /nonexistent --no-create-home nginx
packages nginx-light
install -m 644 "$WORK/nginx.conf" "$M/etc/nginx/nginx.conf"
inside rm -rf /etc/nginx/sites-enabled /etc/nginx/sites-available /var/www
mkdir -p "$M/usr/share/nginx/html" "$M/var/log/nginx"
echo '<html><body><h1>Welcome to nginx!</h1></body></html>' > "$M/usr/share/nginx/html/index.html"
finish
# finish empties /var/log; the log directory is part of the image.
mkdir -p "$WORK/upper/var/log/nginx"
ln -sf /dev/stdout "$WORK/upper/var/log/nginx/access.log"
ln -sf /dev/stderr "$WORK/upper/var/log/nginx/error.log"
