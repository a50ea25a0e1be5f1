"""Commands that predict with trained weights, and score predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.commands.options import AsJson, Files, Tokenizer
from pipeline.cli.errors import errors_reported


def predict(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS",
            help="A .safetensors file of this project, its folder, or sample weights, e.g. demo-detector.",
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Pictures, or folders of images.")],
    out: Annotated[
        Path, typer.Option("--out", help="Table of detections to write: .parquet, or .json with one image a line.")
    ] = Path("out/detections.parquet"),
    objects: Annotated[
        str | None, typer.Option("--objects", metavar="A,B", help="Names, or @FILE; unset: those of the training.")
    ] = None,
    predicates: Annotated[
        str | None, typer.Option("--predicates", metavar="C,D", help="Names, or @FILE; unset: those of the training.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Name that subjects must have, e.g. person; unset: any.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=32, help="Longest side in pixels; unset: the training's, or 1333.")
    ] = None,
    per_image: Annotated[int, typer.Option("--per-image", min=1, help="Relations to keep per image.")] = 100,
    tokenizer: Tokenizer = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures per pass of the network.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")] = "auto",
    draw: Annotated[Path | None, typer.Option("--draw", help="Folder for drawn images.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find boxes and relations in images: a network's texts are any names. Writes a table and, on request, drawings."""
    from pipeline.cli.predict import PredictRequest, predict_pictures

    with errors_reported():
        request = PredictRequest(
            weights,
            tuple(images),
            out,
            objects,
            predicates,
            subject,
            image_size,
            per_image,
            tokenizer,
            batch,
            device,
            draw,
        )
        predict_pictures(request, as_json)


def evaluate(
    benchmark: Annotated[
        Literal["hico-det", "vcoco", "open-images", "vrd", "vg"],
        typer.Argument(metavar="BENCHMARK", help="hico-det, vcoco, open-images, vrd or vg."),
    ],
    ground_truth: Annotated[Path, typer.Option("--ground-truth", help="The benchmark's annotation file.")],
    detections: Annotated[Path, typer.Option("--detections", help="A file of `rlip predict`, or a public format.")],
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="Layout of the annotations, e.g. hico_instances; unset: the usual one."),
    ] = None,
    files: Files = None,
    official: Annotated[
        bool, typer.Option("--official", help="Print the authors' figures, with the defects of their evaluators.")
    ] = False,
    known_object: Annotated[
        bool, typer.Option("--known-object", help="hico-det: add the Known Object setting.")
    ] = False,
    interactions: Annotated[
        Path | None,
        typer.Option("--interactions", help="hico-det: hico_list_hoi.txt, in which --rare and --split count."),
    ] = None,
    rare: Annotated[
        Path | None, typer.Option("--rare", help="hico-det: file of the rare interactions' positions.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="hico-det: NF, UC-RF, UC-NF, or a file of unseen positions, from 0.")
    ] = None,
    validity: Annotated[
        Path | None, typer.Option("--validity", help="hico-det: .npy with predicates × objects, e.g. corre_hico.npy.")
    ] = None,
    subject: Annotated[
        str, typer.Option("--subject", help="hico-det: the subject of the list's interactions.")
    ] = "person",
    boxes_given: Annotated[bool, typer.Option("--boxes-given", help="vg: boxes were given (PredCls, SGCls).")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Images without detections count as images where nothing was found.")
    ] = False,
    drop_faulty: Annotated[bool, typer.Option("--drop-faulty", help="Leave faulty rows out and count them.")] = False,
    intervals: Annotated[
        int, typer.Option("--intervals", min=0, help="Resampled test sets per interval; 0: no intervals.")
    ] = 200,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for a page, Markdown and JSON.")] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="The images' folder, for images in the report.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a file of detections, whoever made it, by the rules of a public benchmark."""
    from pipeline.cli.evaluate import EvaluationRequest, evaluate_detections

    with errors_reported():
        request = EvaluationRequest(
            benchmark=benchmark, ground_truth=ground_truth, detections=detections, format=format_name, files=files or [],
            official=official, known_object=known_object, interactions=interactions, rare=rare, validity=validity,
            split=split, subject=subject, boxes_given=boxes_given, allow_missing=allow_missing, drop_faulty=drop_faulty,
            resamples=intervals, report=report, images=images,
        )  # fmt: skip
        evaluate_detections(request, as_json)
