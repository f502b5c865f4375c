"""A DETR decoder whose queries also attend by position (Relation-DETR, Hou et al., ECCV 2024), in
memory linear in the number of queries. torch, torchvision and our layers, nothing else."""

import torch.nn.functional as F
from torch import nn
from torchvision.ops import box_convert


class RelationDecoderLayer(nn.TransformerDecoderLayer):
    """torch's decoder layer (batch_first=True) of the same weights, with a `PositionRelation`."""

    def forward(self, x, memory, relation, before, after):
        own = self.self_attn
        qkv = F.linear(x, own.in_proj_weight, own.in_proj_bias).unflatten(2, (3, own.num_heads, -1))
        boxes = (box_convert(b, "cxcywh", "xyxy") for b in (before, after))
        heard = relation.attend(*qkv.permute(2, 0, 3, 1, 4), *boxes)  # (B, H, N, d)
        x = self.norm1(x + self.dropout1(own.out_proj(heard.transpose(1, 2).flatten(2))))
        x = self.norm2(x + self.dropout2(self.multihead_attn(x, memory, memory)[0]))
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm3(x + self.dropout3(self.linear2(hidden)))


def decode(layers, heads, relation, x, memory, boxes):
    """The boxes (B, N, 4) after every layer: cx, cy, w, h in units of the image.

    layers: torch's own first, then RelationDecoderLayers. heads: `nn.Linear(D, 4)`, one each.
    relation: one `PositionRelation` for all layers. x: (B, N, D) queries, which stand at `boxes`.
    memory: (B, M, D) of the encoder.
    """
    found = [boxes]
    for layer, head in zip(layers, heads, strict=True):
        # The queries of this layer had the boxes found[-2] and have found[-1].
        x = layer(x, memory, relation, *found[-2:]) if len(found) > 1 else layer(x, memory)
        found.append((found[-1].detach().logit(eps=1e-5) + head(x)).sigmoid())
    return found[1:]
