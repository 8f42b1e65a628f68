#!/usr/bin/env bash
# Prints what criterion measured below a folder as one JSON object: nanoseconds (mean) by group and name.
set -euo pipefail
python3 - "$1" <<'PYTHON'
import json, pathlib, sys

figures = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("**/new/estimates.json")):
    about = json.loads((path.parent / "benchmark.json").read_text())
    mean = json.loads(path.read_text())["mean"]["point_estimate"]
    figures.setdefault(about["group_id"], {})[about["function_id"] or about["title"]] = round(mean, 1)
print(json.dumps({"method": "criterion, release build, mean", "nanoseconds": figures}, indent=2, ensure_ascii=False))
PYTHON
