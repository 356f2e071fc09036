# Prepares python3 of the GPU machine for codecvq, without a network. Source it from the repository root:
#
#     source scripts/gpu/environment.sh
#
# It installs the wheels of .gpu/wheels into /tmp/site (once), registers the working tree as codecvq, and unpacks
# the speech archives in .gpu (each once). The code comes from the working tree.

_site=${CODECVQ_SITE:-/tmp/site}
_packed=${CODECVQ_PACKED:-.gpu}
_wheels=$(cd "$_packed/wheels" && sha256sum -- *.whl) || return 1
if [ "$_wheels" != "$(cat "$_site/wheels.sha256" 2>/dev/null)" ]; then
  rm -rf "$_site"
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --upgrade --target "$_site" "$_packed"/wheels/*.whl || return 1
  echo "$_wheels" >"$_site/wheels.sha256"
fi
python3 scripts/gpu/registration.py "$_site" || return 1
export PYTHONPATH="$_site:$PWD:$PWD/plugins"
export PATH="$_site/bin:$PATH"
if ls "$_packed"/speech-*/clips.zip >/dev/null 2>&1; then
  python3 scripts/gpu/unpack.py "$_packed" || return 1
fi
unset _site _packed _wheels
