# Sourced by the other tools, after `python` is set. Tells uv of what pip is told: uv does
# not read pip's settings.
setting() {
  { "$python" -m pip config list 2>/dev/null || true; } | # Debian's may have no pip
    sed -n "s/^\(:env:\|global\|install\)\.$1='\(.*\)'\$/\2/p" | head -n 1
}
if [[ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]]; then
  index=$(setting index-url)
  [[ -z $index ]] || export UV_DEFAULT_INDEX=$index
fi
if [[ -z "${SSL_CERT_FILE:-}" ]]; then
  certificates=$(setting cert)
  [[ -z $certificates ]] || export SSL_CERT_FILE=$certificates
fi
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}

# Prints where PyTorch's CPU build is looked for: it is on no index of packages but
# PyTorch's own, of which pip may know a copy.
pytorch_links() {
  local links
  for links in ${UV_FIND_LINKS:-} $(setting find-links); do
    if [[ $links == *://* ]] || compgen -G "$links/torch-*+cpu-*.whl" >/dev/null; then
      echo "$links"
      return
    fi
  done
  echo https://download.pytorch.org/whl/cpu/torch/
}
