"""Layers of the peers against loops in fp64, one head, edge or query at a time."""

import pytest
import torch
from fixtures_baselines import SIZES, batch, peer

from flare_connect.models.baselines import build
from flare_connect.models.baselines.ball_query import ball, nearest
from flare_connect.models.baselines.geotransolver import ContextReader, GaleAttention, GeoFlareAttention
from flare_connect.models.baselines.meshgraphnet import MessageRound
from flare_connect.models.baselines.transolver import SliceAttention, SliceProjection
from flare_kernels import Segments


def attend(q, k, v, scale):
    """Softmax attention of one head, in the plainest way."""
    scores = scale * torch.stack([torch.stack([(a * b).sum() for b in k]) for a in q])
    return scores.softmax(1) @ v


def sliced(projection, x, head, rows):
    """Weights and tokens of one head of one mesh, a slice at a time."""
    cut = slice(head * 4, head * 4 + 4)
    key, value = projection.key(x[rows])[:, cut], projection.value(x[rows])[:, cut]
    temperature = min(max(projection.temperature[head].item(), 0.5), 5.0)
    weights = (projection.slice(key) / temperature).softmax(1)
    tokens = [sum(w * v for w, v in zip(column, value, strict=True)) / (column.sum() + 1e-2) for column in weights.T]
    return weights, torch.stack(tokens)


@pytest.mark.parametrize("temperature", [0.2, 0.9, 7.0])
@pytest.mark.parametrize("with_context", [False, True])
def test_slice_attention_against_loops(with_context, temperature):
    sizes = {"num_heads": 3, "num_slices": 5}
    layer = (GaleAttention(12, context_dim=6, **sizes) if with_context else SliceAttention(12, **sizes)).double()
    torch.nn.init.constant_(layer.projection.temperature, temperature)
    x, segments = torch.randn(17, 12).double(), Segments.from_lengths([6, 11])
    context = torch.randn(2, 3, 4, 6).double()
    if with_context:
        torch.nn.init.constant_(layer.reader.share, 0.7)
    expected = torch.zeros(17, 12).double()
    for mesh, rows in enumerate(segments.slices):
        heads = []
        for head in range(3):
            weights, tokens = sliced(layer.projection, x, head, rows)
            out = attend(*layer.qkv(tokens).split(4, dim=1), scale=0.5)
            if with_context:
                reader, c = layer.reader, context[mesh, head]
                share = 1 / (1 + torch.exp(torch.tensor(-0.7).double()))
                read = attend(reader.query(tokens), reader.key(c), reader.value(c), scale=0.5)
                out = share * out + (1 - share) * read
            heads.append(weights @ out)
        expected[rows] = layer.output(torch.cat(heads, 1))
    torch.testing.assert_close(layer(x, segments, context if with_context else None), expected, rtol=1e-7, atol=1e-7)


def test_geoflare_attention_against_loops():
    layer = GeoFlareAttention(12, num_heads=3, num_slices=5, context_dim=6).double()
    torch.nn.init.constant_(layer.reader.share, -0.4)
    x, segments = torch.randn(17, 12).double(), Segments.from_lengths([6, 11])
    context, share = torch.randn(2, 3, 4, 6).double(), torch.tensor(-0.4).double().sigmoid()
    expected = torch.zeros(17, 12).double()
    for mesh, rows in enumerate(segments.slices):
        heads = []
        for head, h in enumerate(layer.input(x[rows]).split(4, dim=1)):
            k, latents, c = layer.key(h), layer.latents[head], context[mesh, head]
            own = attend(k, latents, attend(latents, k, layer.value(h), 1.0), 1.0)
            read = attend(layer.reader.query(h), layer.reader.key(c), layer.reader.value(c), 1.0)
            heads.append(share * own + (1 - share) * read)
        expected[rows] = layer.output(torch.cat(heads, 1))
    torch.testing.assert_close(layer(x, segments, context), expected, rtol=1e-7, atol=1e-7)


def test_context_against_loops():
    """Balls of the geometry around nodes, balls of nodes around the geometry, tokens side by side in this order."""
    model, (x, condition, more) = peer("geotransolver"), batch([30, 12])
    context, segments, boundary = model.context, more["segments"], more["boundary_index"]
    found = model.surroundings(x[:, :2], segments, boundary)
    tokens, of_nodes = context(x[:, :2], condition, segments, found)

    def described(points, queries, scale):
        flat = torch.zeros(len(queries), 2 * context.num_neighbours[scale]).double()
        for row, query in zip(flat, queries, strict=True):
            distance = (points - query).norm(dim=1)
            inside = distance.argsort()[: context.num_neighbours[scale]]
            inside = inside[distance[inside] <= context.radii[scale]]
            row[: 2 * len(inside)] = points[inside].flatten()
        first, _, second, _, third, _ = context.local[scale]
        gelu = torch.nn.functional.gelu
        return third(gelu(second(gelu(first(flat))))).tanh()

    for mesh, rows in enumerate(segments.slices):
        pos = x[rows, :2]
        geometry = x[boundary[(boundary >= rows.start) & (boundary < rows.stop)], :2]
        near = [described(geometry, pos, scale) for scale in (0, 1)]
        torch.testing.assert_close(of_nodes[rows], torch.cat(near, 1))
        sources = [
            (context.local_tokens[0], described(pos, geometry, 0)),
            (context.local_tokens[1], described(pos, geometry, 1)),
            (context.geometry, geometry),
            (context.per_mesh, condition[mesh : mesh + 1]),
        ]
        expected = [layer(points, Segments.from_lengths([len(points)]))[1][0] for layer, points in sources]
        torch.testing.assert_close(tokens[mesh], torch.cat(expected, -1))


def test_message_round_against_a_loop():
    block = MessageRound(6, 2).double()
    x, edges, edge_index = torch.randn(4, 6).double(), torch.randn(5, 6).double(), torch.randint(0, 4, (2, 5))
    new_x, new_edges = block(x, edges, edge_index)
    received = torch.zeros(4, 6).double()
    for e, (i, j) in enumerate(edge_index.T.tolist()):
        first = block.edge_first(torch.cat([edges[e], x[i], x[j]]))
        expected = edges[e] + block.edge_rest(first)
        torch.testing.assert_close(new_edges[e], expected)
        received[j] += expected
    for j in range(4):
        torch.testing.assert_close(new_x[j], x[j] + block.node(torch.cat([received[j], x[j]])))


def test_graph_convolutions_against_a_loop():
    """Attention over a node's neighbours and itself; its own edge has the mean of the arriving features."""
    model = build("graphnet", **SIZES, channels=4, num_blocks=1, num_heads=1).double()
    x, condition, more = batch([6])
    conv, e = model.blocks[0].conv, more["edge_attr"]
    h = model.encode(torch.cat([x, condition.expand(6, -1)], 1))
    normed = model.blocks[0].norm(h)
    for j in range(6):
        arriving = (more["edge_index"][1] == j).nonzero().flatten()
        senders = torch.cat([more["edge_index"][0, arriving], torch.tensor([j])])
        features = torch.cat([e[arriving], e[arriving].mean(0, keepdim=True)])
        sent = conv.lin_l(normed[senders])
        hidden = torch.nn.functional.leaky_relu(sent + conv.lin_r(normed[j]) + conv.lin_edge(features), 0.2)
        weights = (hidden * conv.att[0, 0]).sum(1).softmax(0)
        out = h[j] + torch.nn.functional.gelu((weights[:, None] * sent).sum(0) + conv.bias)
        torch.testing.assert_close(model(x, condition, **more)[j], model.decode(model.norm(out)))


def test_an_empty_slice_is_zero_and_a_share_starts_at_a_half():
    projection = SliceProjection(6, 2, 3, 4).double()
    _, tokens = projection(torch.zeros(0, 6).double(), Segments.from_lengths([0]))
    assert torch.equal(tokens, torch.zeros(1, 2, 4, 3).double())
    own, read = torch.randn(2, 5, 4)
    torch.testing.assert_close(ContextReader(4, 6).mix(own, read), (own + read) / 2)


def test_neighbours_against_a_loop(monkeypatch):
    from flare_connect.models.baselines import ball_query

    monkeypatch.setattr(ball_query, "_MOST_DISTANCES", 40)  # several pieces a mesh
    points, queries = torch.rand(23, 2).double(), torch.rand(15, 2).double()
    point_segments, query_segments = Segments.from_lengths([3, 0, 20]), Segments.from_lengths([4, 2, 9])
    found = nearest(points, point_segments, queries, query_segments, num_neighbours=5)
    flat = ball(points, found, 0.3, 4)
    for rows, asked in zip(point_segments.slices, query_segments.slices, strict=True):
        for query in range(asked.start, asked.stop):
            distance = (points[rows] - queries[query]).square().sum(1).sqrt()
            inside = [int(i) for i in distance.argsort()[:4] if distance[i] <= 0.3]
            expected = torch.zeros(4, 2).double()
            expected[: len(inside)] = points[rows][inside]
            torch.testing.assert_close(flat[query], expected.flatten())
