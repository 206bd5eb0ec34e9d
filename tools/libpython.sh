#!/bin/sh
# Put libpython where replicas look for it: $VENV/share/aios/lib. Triton's Python backend loads it, and Debian and
# Ubuntu pack it apart from the interpreter. Where it is not installed, apt's own download, which needs no root, is
# unpacked; apt has checked its signature.
set -eu

lib=$VENV/share/aios/lib
ask() { "$VENV/bin/python" -c "import sys, sysconfig; print($1)"; }
name=$(ask 'sysconfig.get_config_var("INSTSONAME")')
series=$(ask '"%d.%d" % sys.version_info[:2]')

mkdir -p "$lib"
installed=$(ask 'sysconfig.get_config_var("LIBDIR")')/$name
if [ -e "$installed" ]; then
    ln -sfn "$installed" "$lib/$name"
    exit
fi
if [ -e "$lib/$name" ]; then
    exit
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if (cd "$scratch" && apt-get download "libpython$series" && dpkg-deb -x ./*.deb files); then
    cp "$(find "$scratch/files" -name "$name" -type f)" "$lib/$name"
else
    echo "Replicas need $name and apt offers none: install libpython$series, or use a Python built with --enable-shared" >&2
    exit 1
fi
