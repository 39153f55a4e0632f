#!/bin/sh
# Copies the jars of an Apache Kafka broker to .services/kafka/<version> (git-ignored); nothing to do
# when they are there. Usage: fetch.sh [4.3|3.9]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
release=${1:-4.3}
target="$here/../../../.services/kafka/$release"
case $release in
  4.3) profile= ;;
  3.9) profile=-Pkafka-3.9 ;;
  *) echo "fetch.sh: unknown release '$release' (4.3 or 3.9)" >&2; exit 2 ;;
esac
[ -f "$target/.complete" ] && exit 0
command -v mvn >/dev/null || { echo "fetch.sh: Maven is needed to fetch Kafka's jars (Debian: apt-get install maven)" >&2; exit 1; }
mkdir -p "$target"
# shellcheck disable=SC2086
mvn -q -B $profile -f "$here/pom.xml" dependency:copy-dependencies \
  -DincludeScope=runtime -DoutputDirectory="$target"
touch "$target/.complete"
