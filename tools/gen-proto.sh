#!/bin/bash
# Generates proto/chaos_proto/v1 from proto/chaos/v1/*.proto: messages, services, type stubs.
# With --check it changes nothing and fails if the generated files are not up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

generate() { # OUT: generate below this directory
    # The virtual path makes protoc itself write `from chaos_proto.v1 import …`.
    local protos=(proto/chaos/v1/*.proto)
    PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m grpc_tools.protoc \
        --proto_path=chaos_proto/v1=proto/chaos/v1 \
        --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" \
        "${protos[@]/#proto\/chaos\/v1/chaos_proto/v1}"
}

case ${1-} in
    "") generate proto ;;
    --check)
        fresh=$(mktemp -d)
        trap 'rm -rf "$fresh"' EXIT
        generate "$fresh"
        diff --brief --recursive --exclude=__init__.py --exclude=__pycache__ \
            "$fresh/chaos_proto/v1" proto/chaos_proto/v1 >&2 || {
            echo "proto/chaos_proto/v1 is not up to date with proto/chaos/v1: run \`make proto\`" >&2
            exit 1
        }
        ;;
    *) echo "usage: tools/gen-proto.sh [--check]" >&2; exit 2 ;;
esac
