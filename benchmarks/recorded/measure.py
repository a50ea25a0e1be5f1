"""Computes our network's values under the names of recordings.

Shapes: B images, S image tokens, L levels, T texts, D width, E text width, K decoder layers, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.recorded.recording import Arrays, Recording, targets_in
from models.decoder import Decoded
from models.encoder import Encoded
from models.losses import Matches, SetCriterion, TaggerCriterion, hungarian, pseudo_labels
from models.network import Network
from models.official.names import places, share_of
from models.predictions import Pairs, Predictions, Target, hoi, scene_graph

FIELDS = {
    "pred_sub_logits": "subject_logits", "pred_obj_logits": "object_logits", "pred_verb_logits": "predicate_logits",
    "pred_sub_boxes": "subject_boxes", "pred_obj_boxes": "object_boxes",
}  # fmt: skip
TERMS = {
    "loss_obj_ce": "loss_class", "loss_verb_ce": "loss_predicates", "loss_sub_bbox": "loss_subject_box",
    "loss_obj_bbox": "loss_object_box", "loss_sub_giou": "loss_subject_giou", "loss_obj_giou": "loss_object_giou",
}  # fmt: skip
SMALL = 600
"""Maximum number of elements of parameters whose gradients are recorded in full."""


def measure_forward(recording: Recording, given: Arrays) -> Arrays:
    """Computes activations and outputs as in training, where texts whose features sum to at most 0 are hidden."""
    recording.network.train()
    targets = targets_in(given)
    with torch.no_grad(), _watching(recording.network) as seen:
        texts = recording.texts()
        encoded = recording.encode(texts)
        predictions = recording.decode(encoded, targets)
    measured = seen | _memory(encoded) | _outputs(predictions)
    measured["mc.text_memory"] = measured["mc.text_memory_resized"]
    measured["mc.text_memory_bf_resize"] = torch.cat(texts)[:, None].numpy()
    measured["mc.obj_pred_names_sums"] = np.array([[len(part) for part in texts]])
    return measured | _pseudo_labels(recording, predictions, texts[1], targets)


def measure_evaluation(recording: Recording, given: Arrays) -> Arrays:
    """Computes outputs and results as in evaluation, where no text is hidden."""
    encoded, predictions = _evaluate(recording)
    sizes = [tuple(row) for row in given["post.orig_sizes"].tolist()]
    subject = recording.args.get("subject_category_id", 0)
    return (
        _outputs(predictions)
        | _memory(encoded)
        | _results("post.hoi.", hoi(predictions, sizes), subject)
        | _results("post.hoi_zs.", zero_shot(predictions, sizes, subject), subject)
        | _results("post.sgg.", scene_graph(predictions, sizes), None)
    )


def zero_shot(predictions: Predictions, sizes: list[tuple[int, int]], subject: int) -> list[Pairs]:
    """Same as `hoi`, but only of pairs whose most likely subject is the object text with index `subject`."""
    every = hoi(predictions, sizes)
    return [
        Pairs(**{name: value[pairs.subject_labels == subject] for name, value in vars(pairs).items()})
        for pairs in every
    ]


def measure_zero_shot(recording: Recording, given: Arrays) -> Arrays:
    """Computes the results of pairs whose likeliest subject is the recorded category."""
    subject = int(given["subject_category_id"])
    sizes = [tuple(row) for row in given["orig_sizes"].tolist()]
    return _results("", zero_shot(_evaluate(recording)[1], sizes, subject), subject)


def measure_loss(recording: Recording, given: Arrays) -> Arrays:
    """Computes outputs, matches, losses and gradients of a training step."""
    recording.network.train().zero_grad()
    targets = targets_in(given)
    texts = recording.texts()
    predictions = recording.decode(recording.encode(texts), targets)
    settings = recording.loss_settings()
    measured: Arrays = {}
    if recording.config.tagger:
        measured |= {f"train.{key}": value for key, value in _outputs(predictions).items()}
        losses = TaggerCriterion(settings, official_compat=True)(predictions, targets)
    else:
        measured |= _outputs(predictions) | _pseudo_labels(recording, predictions, texts[1], targets)
        matches = hungarian(predictions.stacked(), targets, recording.match_weights(), official_compat=True)
        measured |= _matches(matches, [len(target.object_labels) for target in targets])
        criterion = SetCriterion(settings, match=recording.match_weights(), official_compat=True)
        losses = criterion(predictions, targets, texts[1])
    losses["loss"].backward()
    return (
        measured
        | _losses(losses, recording.config.decoder_layers)
        | _gradients(recording, "step.total_grad_norm" in given)
    )


MEASURES = {"forward": measure_forward, "evalpath_post": measure_evaluation, "post_zs": measure_zero_shot}


def measure(recording: Recording, part: str, given: Arrays) -> Arrays:
    """Computes all compared values of a part. `given` holds the part's targets and image sizes."""
    return MEASURES.get(part, measure_loss)(recording, given)


@contextmanager
def _watching(network: Network) -> Iterator[Arrays]:
    """Collects the activations of a forward pass."""
    seen: Arrays = {}
    transformer, encoder = network.transformer, network.transformer.encoder
    handles = []

    def watch(module: nn.Module, values: Callable[[Any, Any], dict[str, Tensor]]) -> None:
        def keep(_module: nn.Module, inputs: Any, output: Any) -> None:
            seen.update({key: value.numpy(force=True) for key, value in values(inputs, output).items()})

        handles.append(module.register_forward_hook(keep))

    def watch_each(modules: Iterable[nn.Module], key: str) -> None:
        for i, module in enumerate(modules):
            watch(module, lambda _, output, i=i: {key.format(i): output})

    text = ("last_hidden_state", "pooler_output")
    watch(transformer.text_encoder.roberta, lambda _, output: {f"act.text.{key}": output[key] for key in text})
    watch(encoder, lambda inputs, _: {"mc.pos_embed": inputs[1].expand_as(inputs[0])})
    watch_each(network.input_proj, "act.input_proj.{}")
    watch_each(encoder.layers, "act.enc.layer{}.out")
    watch_each(encoder.roberta_layers, "act.enc.roberta{}.out")
    for i, module in enumerate(encoder.VLFuse_layers):
        fused = (f"act.enc.vlfuse{i}.vis", f"act.enc.vlfuse{i}.lang")
        watch(module, lambda _, output, fused=fused: dict(zip(fused, output, strict=True)))
    for stage, decoder in (("ho", transformer.ho_decoder), ("verb", transformer.verb_decoder)):
        watch(decoder, lambda _, layers, stage=stage: _decoded(f"act.{stage}_decoder.", layers))
        watch_each(decoder.layers, f"act.{stage}_decoder.layer{{}}.out")
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _decoded(prefix: str, layers: list[Decoded]) -> dict[str, Tensor]:
    references = [torch.stack((layer.boxes.subjects, layer.boxes.objects)) for layer in layers]
    return {f"{prefix}hs": torch.stack([layer.content for layer in layers]), f"{prefix}refs": torch.stack(references)}


def _evaluate(recording: Recording) -> tuple[Encoded, Predictions]:
    recording.network.eval()
    with torch.no_grad():
        encoded = recording.encode(recording.texts())
        return encoded, recording.decode(encoded, [])


def _memory(encoded: Encoded) -> Arrays:
    """Returns the encoder's output in the authors' layout, with texts as K×T×B×D."""
    sizes = np.array(encoded.shapes)
    batch, tokens = encoded.memory.shape[:2]
    texts = encoded.texts[0].shape[1]
    padding = torch.zeros(1, tokens, dtype=torch.bool) if encoded.padding is None else encoded.padding
    hidden = encoded.text_key_padding_mask
    hidden = torch.zeros(1, texts, dtype=torch.bool) if hidden is None else hidden
    return {
        "mc.img_memory": encoded.memory.numpy(force=True),
        "mc.text_memory_resized": torch.stack(encoded.texts).transpose(1, 2).numpy(force=True),
        "mc.masks": padding.expand(batch, -1).numpy(force=True),
        "mc.text_attention_mask": hidden.expand(batch, -1).T.numpy(force=True),
        "mc.valid_ratios": encoded.valid_ratios.expand(batch, -1, -1).numpy(force=True),
        "mc.spatial_shapes": sizes,
        "mc.level_start_index": np.concatenate(([0], sizes.prod(1).cumsum()[:-1])),
    }


def _layers(predictions: Predictions) -> list[tuple[str, Predictions]]:
    """Returns the last layer and the auxiliary layers with their key prefixes."""
    return [("out.", predictions), *((f"out.aux{k}.", layer) for k, layer in enumerate(predictions.auxiliary))]


def _outputs(predictions: Predictions) -> Arrays:
    return {
        prefix + key: getattr(layer, field).numpy(force=True)
        for prefix, layer in _layers(predictions)
        for key, field in FIELDS.items()
    }


def _pseudo_labels(
    recording: Recording, predictions: Predictions, predicates_TE: Tensor, targets: list[Target]
) -> Arrays:
    if recording.config.tagger or not recording.args["pseudo_verb"]:
        return {}
    similar = pseudo_labels(predicates_TE, torch.cat([target.predicates for target in targets])).numpy(force=True)
    return {f"{prefix}target_verb_sim": similar for prefix, _ in _layers(predictions)}


def _results(prefix: str, images: list[Pairs], subject: int | None) -> Arrays:
    """Returns each image's results, subjects before objects. `subject`, if given, replaces all subject labels."""
    results: Arrays = {}
    for image, pairs in enumerate(images):
        count = len(pairs.object_labels)
        labels = pairs.subject_labels if subject is None else torch.full((count,), subject)
        results |= {
            f"{prefix}{image}.labels": torch.cat((labels, pairs.object_labels)).numpy(),
            f"{prefix}{image}.boxes": torch.cat((pairs.subject_boxes, pairs.object_boxes)).numpy(),
            f"{prefix}{image}.verb_scores": pairs.predicate_scores.numpy(),
            f"{prefix}{image}.sub_ids": np.arange(count),
            f"{prefix}{image}.obj_ids": np.arange(count, 2 * count),
        }
    return results


def _matches(matches: Matches, counts: list[int]) -> Arrays:
    found: Arrays = {}
    for layer in range(len(matches.image)):
        name = "main" if layer == 0 else f"aux{layer - 1}"
        first = 0
        for image, count in enumerate(counts):
            rows = matches.image[layer] == image
            found[f"match.{name}.img{image}.src"] = matches.query[layer][rows].numpy()
            found[f"match.{name}.img{image}.tgt"] = matches.target[layer][rows].numpy() - first
            first += count
    return found


def _losses(losses: dict[str, Tensor], layers: int) -> Arrays:
    suffixes = ["", *(f"_{k}" for k in range(layers - 1))]
    terms = {
        f"loss.{key}{suffix}": losses[term + suffix].numpy(force=True)
        for key, term in TERMS.items()
        for suffix in suffixes
    }
    return terms | {"loss_total": losses["loss"].numpy(force=True)}


def _gradients(recording: Recording, clipped: bool) -> Arrays:
    """Returns gradient norms of the authors' parameters, and the gradients of small parameters in full.

    `clipped`: the full gradients are clipped as by the optimiser's step; norms are always from before clipping.
    """
    parameters = dict(recording.network.named_parameters())
    gradients: Arrays = {}
    norms: dict[str, float] = {}
    without: list[str] = []
    known = places(parameters, recording.config)
    for name, value in recording.official.items():
        place = known.get(name)
        ours = parameters.get(place.name) if place else None
        if place is None or ours is None or not ours.requires_grad:
            continue
        if ours.grad is None:
            without.append(name)
            continue
        share = share_of(place, ours.grad, recording.config.relation_branches)
        norms[name] = share.double().norm().item()
        if value.numel() <= SMALL:
            # The authors use only the first element of some gates; ours have no other.
            unused = value.numel() - share.numel()
            gradients[f"gradfull.{name}"] = F.pad(share.flatten(), (0, unused)).view(value.shape).numpy()
    total = float(np.linalg.norm(list(norms.values())))
    if clipped:
        factor = min(1.0, recording.args["clip_max_norm"] / (total + 1e-6))
        gradients = {name: gradient * factor for name, gradient in gradients.items()}
        gradients["step.total_grad_norm"] = np.array(total)
    return gradients | {
        "grad.names": np.array(list(norms)),
        "grad.norms": np.array(list(norms.values())),
        "grad.none_names": np.array(without),
    }
