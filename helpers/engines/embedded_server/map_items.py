"""A Distributed Map's fields: where its items are, what its children get of them, what becomes of results."""

import json
from collections.abc import Iterator
from typing import Any

State = dict[str, Any]


class Fields:
    """The fields of one Map state, whichever query language they are written in."""

    def __init__(self, sfn: Any, state: State, raw_input: Any, effective: Any, ctx: dict[str, Any]) -> None:
        self.sfn, self.state, self.raw_input, self.effective, self.ctx = sfn, state, raw_input, effective, ctx
        self.jsonata = sfn._state_query_language(state, ctx) == "JSONata"

    def value(self, template: Any, ctx: dict[str, Any] | None = None) -> Any:
        """What a template gives."""
        if self.jsonata:
            return self.sfn._apply_jsonata_template(template, self.raw_input, ctx or self.ctx)
        return self.sfn._resolve_params_obj(template, self.effective, ctx or self.ctx)

    def number(self, holder: State, name: str) -> Any:
        """A number that a field, or its Path form, gives; None without either."""
        if f"{name}Path" in holder:
            return self.sfn._resolve_path_or_ctx(holder[f"{name}Path"], self.effective, self.ctx)
        return self.value(holder[name]) if name in holder else None

    def items(self) -> list[Any]:
        """The items of the Map, read from where it says."""
        if "ItemReader" in self.state:
            reader = self.value(self.state["ItemReader"]) if self.jsonata else self.state["ItemReader"]
            found = self.sfn._read_map_items(reader, self.effective, self.ctx)
        elif self.jsonata:
            found = self.value(self.state["Items"]) if "Items" in self.state else self.raw_input
        else:
            found = self.sfn._resolve_path_or_ctx(self.state.get("ItemsPath", "$"), self.effective, self.ctx)
        return found if isinstance(found, list) else [found]

    def inputs(self, items: list[Any]) -> Iterator[tuple[Any, int]]:
        """The input of each child, and how many items are in it."""
        selector = self.state.get("ItemSelector") or self.state.get("Parameters")
        selected = (
            self.value(selector, self.ctx | {"Map": {"Item": {"Index": index, "Value": item}}})
            if selector
            else item
            for index, item in enumerate(items)
        )
        if "ItemBatcher" not in self.state:
            return ((item, 1) for item in selected)
        return self._batches(selected, self.state["ItemBatcher"])

    def _batches(self, items: Iterator[Any], batcher: State) -> Iterator[tuple[Any, int]]:
        """Items together, as many as MaxItemsPerBatch and MaxInputBytesPerBatch allow."""
        limits = ("MaxItemsPerBatch", "MaxInputBytesPerBatch")
        most, most_bytes = (self.number(batcher, name) or float("inf") for name in limits)
        frame = {"BatchInput": self.value(batcher["BatchInput"])} if "BatchInput" in batcher else {}
        empty = size = _bytes(frame | {"Items": []})
        batch: list[Any] = []
        for item in items:
            added = _bytes(item) + bool(batch)  # a comma
            if batch and (len(batch) == most or size + added > most_bytes):
                yield frame | {"Items": batch}, len(batch)
                batch, size, added = [], empty, _bytes(item)
            batch.append(item)
            size += added
        if batch:
            yield frame | {"Items": batch}, len(batch)

    def output(self, result: Any) -> tuple[Any, Any]:
        """What the state hands on, and to which state."""
        sfn, state = self.sfn, self.state
        if self.jsonata:
            output = sfn._apply_jsonata_output(state, self.raw_input, self.ctx, result=result, default=result)
            sfn._apply_state_assign(state, self.raw_input, self.ctx, result=result)
        else:
            result = sfn._apply_result_selector(state, result)
            output = sfn._apply_result_path(state, self.raw_input, result)
            output = sfn._apply_output_path(state, output, self.ctx)
        return output, sfn._next_or_end(state)


def _bytes(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
