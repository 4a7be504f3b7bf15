"""Reads the results of scenarios, prints the confusion matrix, and keeps it in the documentation where asked to."""

import json
import string
import sys

BEGIN, END = "<!-- scenarios: begin -->\n", "<!-- scenarios: end -->\n"


def matrix(results):
    """One row for each wanted cause, one column for each cause that was named first."""
    wanted = [result["wanted"][0] for result in results]
    first = [first_of(result) for result in results]
    causes = sorted(set(wanted) | set(first))
    letters = (string.ascii_lowercase + string.ascii_uppercase)[: len(causes)]
    width = max(map(len, causes))
    lines = [f"{'wanted, and named first':<{width + 2}} " + " ".join(letters)]
    for letter, cause in zip(letters, causes):
        counts = [sum(pair == (cause, other) for pair in zip(wanted, first)) for other in causes]
        cells = " ".join(str(count) if count else "." for count in counts)
        lines.append(f"{letter} {cause:<{width}} {cells}")
    return "\n".join(line.rstrip() for line in lines)


def first_of(result):
    return result["found"][0] if result["found"] else "none"


def table(results):
    lines = ["| scenario | wanted | named, in this order |", "|---|---|---|"]
    for result in results:
        found = ", ".join(f"`{cause}`" for cause in result["found"][:3])
        mark = "" if result["right"] else " **wrong**"
        wanted = ", then ".join(f"`{cause}`" for cause in result["wanted"])
        lines.append(f"| {result['scenario']} | {wanted} | {found}{mark} |")
    return "\n".join(lines)


def main(path, document):
    with open(path, encoding="utf-8") as file:
        results = [json.loads(line) for line in file if line.strip()]
    right = sum(result["right"] for result in results)
    summary = f"{right} of {len(results)} right first"
    for result in results:
        if not result["right"]:
            print(f"wrong: {result['scenario']}: wanted {result['wanted']}, found {result['found']}")
    print(matrix(results))
    print(f"{sum(result['seconds'] for result in results)} s in scenarios")
    if document:
        with open(document, encoding="utf-8") as file:
            before, rest = file.read().split(BEGIN)
            _, after = rest.split(END)
        block = f"{table(results)}\n\n```text\n{matrix(results)}\n```\n\n{summary}\n\n"
        with open(document, "w", encoding="utf-8") as file:
            file.write(before + BEGIN + "\n" + block + END + after)
    print(summary)
    return 0 if right == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
