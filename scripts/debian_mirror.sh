# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# To be sourced: where this machine gets Debian from, for roots and packages of other suites.
#
#   source scripts/debian_mirror.sh
#   line="$(debian_source forky)"

# debian_source SUITE [LABEL]: `deb [signed-by=...] URI SUITE main`. LABEL is what the mirror calls
# itself: Debian, or Debian-Security. 1 where apt knows no such source.
debian_source() {
  local release=$1 label=${2:-Debian} uri signed_by=
  uri="$(apt-get indextargets --format "\$(ORIGIN) \$(LABEL) \$(COMPONENT) \$(REPO_URI)" \
    'Created-By: Packages' | sed -n "s/^Debian $label main //p" | sort -u | head -n 1)"
  [[ -n $uri ]] || return 1
  uri="${uri%/}"
  # Where the source names no keyring, apt's default ones and Debian's own count.
  signed_by="$({
    awk -v RS= -v uri="$uri" 'index($0, uri) && match($0, /Signed-By: *\/[^ \n]+/) {
        split(substr($0, RSTART, RLENGTH), field, /: */)
        print field[2]
      }' /etc/apt/sources.list.d/*.sources
    sed -nE "s,^deb \\[.*signed-by=([^] ]+).*\\] $uri/? .*,\\1,p" \
      /etc/apt/sources.list /etc/apt/sources.list.d/*.list
  } 2>/dev/null | head -n 1)" || true
  printf 'deb %s %s %s main\n' "${signed_by:+[signed-by=$signed_by]}" "$uri" "$release"
}

# How this machine reaches it (proxies, retries), and what it lets pass (a mirror frozen at a date),
# as lines of apt's configuration.
apt_options() {
  apt-config dump | sed -nE \
    's/^(Acquire::(https?|Retries|ForceIPv[46]|Check-Date|Check-Valid-Until)(::[^ ]+)? ".+";)$/\1/p'
}
