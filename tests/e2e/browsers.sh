#!/usr/bin/env bash
# browsers.sh DIR [NODE_MODULES]
#
# Lays out DIR as Playwright's browser directory (PLAYWRIGHT_BROWSERS_PATH) with one browser in it: the distribution's
# Chromium, behind a wrapper of the name and place at which the installed Playwright looks for its own headless shell.
# The place carries a revision number, which is read from playwright-core's browsers.json.
set -euo pipefail

dir=${1:?usage: browsers.sh DIR [NODE_MODULES]}
modules=${2:-node_modules}
registry=$modules/playwright-core/browsers.json

[[ -r $registry ]] || { echo "browsers.sh: no $registry: run 'npm ci' first, or name the node_modules directory" >&2; exit 1; }

# The binary itself where Debian puts it: its launcher script only adds desktop settings.
chromium=
for candidate in "${CHROMIUM:-}" /usr/lib/chromium/chromium /usr/bin/chromium /usr/bin/chromium-browser; do
  [[ -n $candidate && -x $candidate ]] && { chromium=$candidate; break; }
done
[[ -n $chromium ]] || { echo "browsers.sh: Chromium is not installed: apt-get install chromium, or set CHROMIUM" >&2; exit 1; }

revision=$(node -p 'JSON.parse(require("fs").readFileSync(process.argv[1])).browsers.find(b => b.name === "chromium-headless-shell").revision' "$registry")

case $(uname -m) in
  x86_64) build=chrome-headless-shell-linux64/chrome-headless-shell ;;
  aarch64) build=chrome-headless-shell-linux-arm64/chrome-headless-shell ;;
  *) echo "browsers.sh: Playwright has no Chromium for $(uname -m)" >&2; exit 1 ;;
esac

home=$dir/chromium_headless_shell-$revision
mkdir -p "$home/$(dirname "$build")"
# Chromium refuses to run as root with its own sandbox. The other options keep it from calling home.
cat > "$home/$build" <<EOF
#!/bin/sh
[ "\$(id -u 2> /dev/null)" != 0 ] || set -- --no-sandbox "\$@"
exec $chromium --headless --no-first-run --disable-quic --disable-sync \\
  --disable-background-networking --disable-component-update ${CHROMIUM_FLAGS:-} "\$@"
EOF
chmod 755 "$home/$build"
# Playwright's own marks: the download is whole, and the libraries it needs are there (the distribution saw to that).
: > "$home/INSTALLATION_COMPLETE"
: > "$home/DEPENDENCIES_VALIDATED"
echo "$dir"
