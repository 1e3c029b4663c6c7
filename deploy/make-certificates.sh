#!/usr/bin/env bash
# Makes what a coordinator's port needs, with openssl alone: an authority, the coordinator's certificate, and tokens.
#
#   deploy/make-certificates.sh FOLDER NAME [NAME…]      NAME: a host name or an address that clients connect to
#   deploy/make-certificates.sh --client FOLDER NAME     one client's certificate, for mutual TLS
#
# FOLDER gets ca.pem and ca.key (keep the key off the cluster), coordinator.pem and coordinator.key, and the tokens
# user.token, worker.token, judge.token and metrics.token. What is there already stays: remove coordinator.* to renew.
# DAYS (default 90) is how long certificates are good for; the authority lasts ten years.
set -euo pipefail
umask 077
days=${DAYS:-90}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }

key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }

authority() {
  [[ -e $folder/ca.key ]] && return
  key "$folder/ca.key"
  openssl req -new -x509 -key "$folder/ca.key" -out "$folder/ca.pem" -days 3650 -sha256 -subj "/CN=avsweep authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign"
}

# leaf NAME PURPOSE ALTERNATIVES: NAME.key and NAME.pem, signed by the authority.
leaf() {
  local name=$1 purpose=$2 alternatives=$3
  key "$folder/$name.key"
  openssl req -new -key "$folder/$name.key" -subj "/CN=$name" -out "$folder/$name.csr"
  openssl x509 -req -in "$folder/$name.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial -sha256 \
    -days "$days" -out "$folder/$name.pem" -extfile <(
      printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n'
      printf 'extendedKeyUsage=%s\nsubjectAltName=%s\n' "$purpose" "$alternatives"
    ) 2>/dev/null
  rm "$folder/$name.csr"
  openssl verify -CAfile "$folder/ca.pem" "$folder/$name.pem" >/dev/null
}

client=no
[[ ${1:-} == --client ]] && { client=yes; shift; }
[[ $# -ge 2 && $1 != -* ]] || usage
command -v openssl >/dev/null || { echo "error: openssl is missing" >&2; exit 1; }
folder=$1
shift
mkdir -p "$folder"

if [[ $client == yes ]]; then
  [[ $# -eq 1 ]] || usage
  [[ -e $folder/ca.key ]] ||
    { echo "error: $folder/ca.key is missing: make the coordinator's certificate first" >&2; exit 1; }
  [[ -e $folder/$1.pem ]] && { echo "$folder/$1.pem is there already" >&2; exit 0; }
  leaf "$1" clientAuth "DNS:$1"
  exit 0
fi

authority
if [[ ! -e $folder/coordinator.pem ]]; then
  alternatives=
  for name in "$@"; do
    if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then kind=IP; else kind=DNS; fi
    alternatives+=${alternatives:+,}$kind:$name
  done
  leaf coordinator serverAuth "$alternatives"
else
  echo "$folder/coordinator.pem is there already, with its old names: remove coordinator.* to make another" >&2
fi
for role in user worker judge metrics; do
  [[ -e $folder/$role.token ]] || openssl rand -hex 32 > "$folder/$role.token"
done
