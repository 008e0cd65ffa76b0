#!/bin/sh
# Builds the Debian package: deb.sh PROGRAM FOLDER puts ringway_VERSION_ARCH.deb into FOLDER. Needs dpkg-deb only.
#
# The package has the program, the unit, the example of a socket unit, the configuration (a conffile) and the documentation.
# Installing creates the user and starts nothing; an update restarts nothing: the new program serves from the next start on.
set -eu

program=$1
into=$2
here=$(cd "$(dirname "$0")/.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/Cargo.toml" | head -n 1)
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

chmod 755 "$root"
install -D -m 755 "$program" "$root/usr/bin/ringway"
install -D -m 644 "$here/systemd/ringway.service" "$root/lib/systemd/system/ringway.service"
install -D -m 644 "$here/systemd/ringway.socket" "$root/usr/share/doc/ringway/examples/ringway.socket"
install -D -m 644 "$here/config.toml" "$root/etc/ringway/config.toml"
install -D -m 644 "$here/README.md" "$root/usr/share/doc/ringway/README.md"
cat "$here/LICENSE-MIT" "$here/LICENSE-APACHE" >"$root/copyright"
install -D -m 644 "$root/copyright" "$root/usr/share/doc/ringway/copyright"
rm "$root/copyright"
size=$(du -sk "$root" | cut -f 1)

install -d -m 755 "$root/DEBIAN"
echo /etc/ringway/config.toml >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<CONTROL
Package: ringway
Version: $version
Architecture: $architecture
Maintainer: The ringway developers <ringway@localhost>
Installed-Size: $size
Depends: libc6, passwd
Recommends: systemd
Section: net
Priority: optional
Description: layer-4 TCP and UDP load balancer on io_uring
 ringway stands in front of databases and raw TCP and UDP services, with one
 worker per core. It needs Linux 6.1 or later.
CONTROL
cat >"$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if ! getent passwd ringway >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin ringway
    fi
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
fi
POSTINST
cat >"$root/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then systemctl disable --now ringway.service; fi
PRERM
cat >"$root/DEBIAN/postrm" <<'POSTRM'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
POSTRM
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"
dpkg-deb --root-owner-group -Zgzip --build "$root" "$into/ringway_${version}_$architecture.deb" >/dev/null
echo "$into/ringway_${version}_$architecture.deb"
