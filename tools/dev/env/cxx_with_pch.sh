#!/usr/bin/env bash
# A stand-in for GCC's C++ compiler that reads the bulky headers of a build from a precompiled one.
#
# Most of the time it takes to compile a PyTorch extension goes into PyTorch's headers, parsed anew
# for every source file. GCC can precompile them, but passes over a precompiled header without a word
# if it was made with other flags than those of the compile at hand. So it is made here, from the flags
# of the compile that asks for it, and there is one for each set of flags.
#
# Environment:
#   PCH_CXX     the compiler
#   PCH_HEADER  what to precompile, as in #include <...>
#   PCH_DIR     where to keep it: an existing folder of this build alone
#
# If the header cannot be precompiled, the compile goes on without it and PCH_DIR/failed says why.
set -uo pipefail

# Debug information and warnings of third-party code only cost time.
extra=(-g0 -w)

flags=()
compiles=no
source_file=
args=("$@")
for ((i = 0; i < ${#args[@]}; i++)); do
  case ${args[i]} in
    -c) compiles=yes ;;
    -o | -MF | -MT | -MQ) ((i++)) ;;
    -MD | -MMD | -MP) ;;
    -*) flags+=("${args[i]}") ;;
    *.cc | *.cpp | *.cxx | *.C) source_file=${args[i]} ;;
    *) flags+=("${args[i]}") ;; # the value of a flag, as in "-isystem DIR"
  esac
done

# Linking, and questions such as --version.
if [[ $compiles == no || -z $source_file ]]; then
  exec "$PCH_CXX" "$@"
fi

key=$(printf '%s\0' "${flags[@]}" | cksum | tr -d ' ')
header=$PCH_DIR/$key.h

if [[ ! -e $header.gch && ! -e $PCH_DIR/failed ]]; then
  exec {lock}>"$PCH_DIR/lock"
  flock "$lock"
  if [[ ! -e $header.gch && ! -e $PCH_DIR/failed ]]; then
    echo "#include <$PCH_HEADER>" >"$header"
    # The name is given only to a finished file: a compile that is broken off leaves nothing to use.
    if "$PCH_CXX" "${flags[@]}" "${extra[@]}" -x c++-header "$header" -o "$header.part" \
      2>"$PCH_DIR/errors"; then
      mv "$header.part" "$header.gch"
    else
      mv "$PCH_DIR/errors" "$PCH_DIR/failed"
    fi
  fi
  exec {lock}>&-
fi

if [[ -e $header.gch ]]; then
  exec "$PCH_CXX" -include "$header" "$@" "${extra[@]}"
fi
exec "$PCH_CXX" "$@" "${extra[@]}"
