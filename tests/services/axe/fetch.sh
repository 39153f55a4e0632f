#!/bin/sh
# Copies axe-core, which looks for barriers in a page, to .services/axe.js (git-ignored); nothing to do when
# it is there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target="$here/../../../.services/axe.js"
[ -f "$target" ] && exit 0
command -v npm >/dev/null || { echo "fetch.sh: npm is needed to fetch axe-core (Debian: apt-get install npm)" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm pack --silent axe-core@4.14.1 >/dev/null
tar xzf axe-core-4.14.1.tgz package/axe.min.js
echo "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c  package/axe.min.js" | sha256sum --check --quiet
mkdir -p "$(dirname "$target")"
mv package/axe.min.js "$target"
