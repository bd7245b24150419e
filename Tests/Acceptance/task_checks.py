"""Second opinions on rows of `anira data`: each checker reads a row's text and recomputes what it must say.

Nothing is shared with the generators: expressions are evaluated by recursion, graphs by networkx, cycles by walking,
strings of the grammar by combining spans level by level. A checker returns the question in a form that does not depend
on how it was presented.
"""

import math

import networkx

LN2 = math.log(2)


def check(row):
    """Everything about one row; its canonical question."""
    words = row["text"].split()
    mask = row["answer_mask"]
    assert list(row) == ["task", "size", "tokens", "text", "answer_mask", "meta"], "keys and their order"
    assert len(words) == len(row["tokens"]) == len(mask), "one word and one mask entry a token"
    assert " ".join(words) == row["text"], "single spaces"
    assert words[0] == "<bos>" and words[-1] == "<eos>" and "<pad>" not in words
    assert set(mask) == {0, 1} and mask[0] == 0
    targets = [word for word, target in zip(words, mask) if target]
    return CHECKERS[row["task"]](row, words, targets)


def check_mano(row, words, targets):
    meta = row["meta"]
    assert list(meta) == ["modulus", "value"]
    assert words[-3] == "<ans>" and words.count("<ans>") == 1, "no other marker, above all none of the length"
    rest = words[1:-3]
    value, operators = evaluate(rest, meta["modulus"])
    assert not rest, "one expression and no more"
    assert operators == row["size"]
    assert words[-2] == str(value) and meta["value"] == value
    assert targets == [str(value)] and row["answer_mask"][-2] == 1, "only the value is supervised"
    return meta["modulus"], *words[1:-3]


def evaluate(words, modulus):
    """Value and number of operators of the expression that the words begin with; they are used up."""
    word = words.pop(0)
    if word not in ("+", "-", "*"):
        assert 0 <= int(word) < modulus
        return int(word), 0
    left, inner_left = evaluate(words, modulus)
    right, inner_right = evaluate(words, modulus)
    value = {"+": left + right, "-": left - right, "*": left * right}[word]
    return value % modulus, inner_left + inner_right + 1


def number(word):
    assert word[0] == "n" and len(word) >= 3, word
    return int(word[1:])


def check_brevo(row, words, targets):
    meta, n = row["meta"], row["size"]
    assert list(meta) == ["edges", "query", "answer"]
    query_at, ans_at = words.index("<query>"), words.index("<ans>")
    pairs = [number(word) for word in words[1:query_at]]
    edges = [list(pair) for pair in zip(pairs[::2], pairs[1::2])]
    assert len(pairs) % 2 == 0 and edges == meta["edges"]
    assert ans_at == query_at + 2 and number(words[query_at + 1]) == meta["query"]
    answer = [number(word) for word in words[ans_at + 1:-1]]
    assert answer == meta["answer"] and targets == words[ans_at + 1:], "the answer and its end are supervised"

    graph = networkx.DiGraph(edges)
    assert graph.number_of_edges() == len(edges), "no pair twice"
    assert networkx.is_directed_acyclic_graph(graph) and graph.number_of_nodes() <= n
    assert all(degree <= 4 for _, degree in [*graph.in_degree(), *graph.out_degree()])
    ancestors = networkx.ancestors(graph, meta["query"])
    assert set(answer) == ancestors and len(answer) == len(ancestors)
    assert answer == post_order(graph, meta["query"])[:-1]
    place = {node: at for at, node in enumerate(answer)}
    assert all(place[a] < place[b] for a, b in edges if b in place)
    return meta["query"], *sorted(map(tuple, edges))


def post_order(graph, query):
    order = []

    def visit(node):
        for prerequisite in sorted(graph.predecessors(node)):
            if prerequisite not in order:
                visit(prerequisite)
        order.append(node)

    visit(query)
    return order


def check_depo(row, words, targets):
    meta, n = row["meta"], row["size"]
    assert list(meta) == ["edges", "queries"]
    pairs = [number(word) for word in words[1:2 * n + 1]]
    edges = [list(pair) for pair in zip(pairs[::2], pairs[1::2])]
    assert edges == meta["edges"]
    graph = networkx.DiGraph(edges)
    assert graph.number_of_nodes() == n == graph.number_of_edges()
    assert len(networkx.find_cycle(graph)) == n, "one cycle through all nodes"

    following, rest, starts = dict(edges), words[2 * n + 1:-1], []
    assert len(rest) == 5 * len(meta["queries"])
    for query, at in zip(meta["queries"], range(0, len(rest), 5)):
        marker, start, ans, answer, end = rest[at:at + 5]
        node = number(start)
        for _ in range(query["k"]):
            node = following[node]
        assert marker == f"<query-{query['k']}>" and (ans, end) == ("<ans>", "<eoa>")
        assert (number(start), number(answer)) == (query["start"], query["answer"])
        assert node == query["answer"], "k edges from the start"
        starts.append(query["start"])
    assert len(set(starts)) == len(starts)
    assert targets == rest[3::5], "only the answers are supervised"
    return tuple(sorted(map(tuple, edges)))


RULES = {
    22: ["21 20", "20 19"], 21: ["18 16", "16 18 17"], 20: ["17 16 18", "16 17"], 19: ["16 17 18", "17 18 16"],
    18: ["15 14 13", "14 13"], 17: ["14 13 15", "15 13 14"], 16: ["15 13", "13 15 14"],
    15: ["12 11 10", "11 12 10"], 14: ["11 10 12", "10 11 12"], 13: ["11 12", "12 11"],
    12: ["8 9 7", "9 7 8"], 11: ["8 7 9", "7 8 9"], 10: ["7 9 8", "9 8 7"],
    9: ["3 2 1", "2 1"], 8: ["3 2", "3 1 2"], 7: ["3 1", "1 2 3"],
}
RULES = {symbol: [tuple(map(int, side.split())) for side in sides] for symbol, sides in RULES.items()}


def check_lano(row, words, targets):
    assert list(row["meta"]) == ["derivation"]
    letters = [int(word) for word in words[1:-1]]
    assert row["size"] == len(letters) and targets == words[1:], "every token after the first is supervised"
    parses, branchings = derivations(letters)
    assert parses == 1, f"{parses} parses"
    assert abs(row["meta"]["derivation"] + branchings * LN2) < 1e-9
    return tuple(letters)


def derivations(letters):
    """Number of parses, and the rules used by them together (by the one, if there is one)."""
    # spans[symbol][start] = {end: (parses, rules)}; a symbol only has symbols of smaller number below it.
    spans = {letter: [{at + 1: (1, 0)} if found == letter else {} for at, found in enumerate(letters)]
             for letter in (1, 2, 3)}
    for symbol in sorted(RULES):
        spans[symbol] = [{} for _ in letters]
        for side in RULES[symbol]:
            for start in range(len(letters)):
                for end, (parses, rules) in sequences(spans, side, start, len(letters)).items():
                    before = spans[symbol][start].get(end, (0, 0))
                    spans[symbol][start][end] = (before[0] + parses, before[1] + rules + 1)
    return spans[22][0].get(len(letters), (0, 0)) if letters else (0, 0)


def sequences(spans, side, start, length):
    """Ends of all ways to put the symbols side by side from `start` on."""
    ends = {start: (1, 0)}
    for symbol in side:
        longer = {}
        for middle, (parses, rules) in ends.items():
            for end, (more, used) in (spans[symbol][middle] if middle < length else {}).items():
                before = longer.get(end, (0, 0))
                longer[end] = (before[0] + parses * more, before[1] + rules + used)
        ends = longer
    return ends


CHECKERS = {"mano": check_mano, "brevo": check_brevo, "depo": check_depo, "lano": check_lano}
