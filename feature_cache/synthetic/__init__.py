"""Feature caches of made-up rows, in the shapes of the paper's seven datasets: `python -m feature_cache.synthetic`.

They let the paper's stream run at its true size where the media cannot be had, and say nothing about any real encoder.

The model. All modalities live in one space of `width` dimensions, as with ImageBind. A row has *latents* along as many
directions, which fall into groups (`factors.py`):

* the *core*, which every modality of every dataset sees;
* a *topic* for each dataset. In its own dataset the modalities see it alike: it tells rows apart. In the datasets that
  come later in the stream it is present too, but there the modalities see it turned against each other by a third of a
  circle: whoever relies on it there is misled, and whoever unlearns it there forgets the dataset whose topic it is;
* *clutter*, different in every modality of a row.

What a row's modalities share is the prototype of its class and a part of its own; each modality adds a part that only
it has. The text of a classification set is the prototype alone, so it repeats exactly.

A modality's features are its latents, sent through its map (a rotation that all modalities share, blended with one of
its own), plus its mean and white noise, stretched to the norm that ImageBind gives the modality (`world.py`). Maps,
means and prototypes are fixed by the seed. So heads that start as the identity see an alignment that is there but
imperfect; a linear head can undo the maps, on all topics at once if it learns them together, since topics lie in
directions of their own and are strongest at home.

A row depends on seed, width, dataset, split and its number alone: a smaller factor keeps the first rows. The same
machine gives the same bits; another one's linear algebra may round a last bit the other way.
"""
