#!/usr/bin/env bash
# check_isa_symbols.sh ISA OBJECT...
#
# Fails if an object file compiled for one instruction set shares a symbol with the rest of the
# program: the linker keeps one copy of such a symbol, and might keep the one with instructions that
# an older processor lacks. All that these files define belongs in namespace fastmaml::ISA.
set -euo pipefail

isa=$1
shift
shared=$(nm -C --defined-only "$@" | grep -E '^[0-9a-f]+ [WVu] ' | grep -v "fastmaml::$isa::" || true)
if [[ -n $shared ]]; then
  echo "not in namespace fastmaml::$isa:"
  echo "$shared"
  exit 1
fi
