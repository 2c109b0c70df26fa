"""The 128 instruments of General MIDI as people would say them, and the octave in which each is at home."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "piano": (
        "acoustic grand piano", "bright acoustic piano", "electric grand piano", "honky-tonk piano",
        "Rhodes electric piano", "FM electric piano", "harpsichord", "clavinet",
    ),
    "chromatic percussion": (
        "celesta", "glockenspiel", "music box", "vibraphone", "marimba", "xylophone", "tubular bells", "dulcimer",
    ),
    "organ": (
        "Hammond organ", "percussive organ", "rock organ", "church organ", "reed organ", "accordion", "harmonica",
        "bandoneon",
    ),
    "guitar": (
        "nylon-string acoustic guitar", "steel-string acoustic guitar", "jazz electric guitar",
        "clean electric guitar", "palm-muted electric guitar", "overdriven electric guitar",
        "distorted electric guitar", "guitar harmonics",
    ),
    "bass": (
        "acoustic bass", "fingered electric bass", "picked electric bass", "fretless bass", "slapped bass",
        "popped bass", "synth bass", "rubber synth bass",
    ),
    "strings": (
        "violin", "viola", "cello", "double bass", "tremolo strings", "pizzicato strings", "harp", "timpani",
    ),
    "ensemble": (
        "string ensemble", "slow string ensemble", "synth strings", "soft synth strings", "choir singing aah",
        "voices singing ooh", "synth voice", "orchestra hit",
    ),
    "brass": (
        "trumpet", "trombone", "tuba", "muted trumpet", "French horn", "brass section", "synth brass",
        "soft synth brass",
    ),
    "reed": (
        "soprano saxophone", "alto saxophone", "tenor saxophone", "baritone saxophone", "oboe", "English horn",
        "bassoon", "clarinet",
    ),
    "pipe": (
        "piccolo", "flute", "recorder", "pan flute", "blown bottle", "shakuhachi", "whistle", "ocarina",
    ),
    "synth lead": (
        "square wave synth lead", "sawtooth synth lead", "calliope synth lead", "chiff synth lead",
        "charang synth lead", "voice synth lead", "synth lead in fifths", "bass and lead synth",
    ),
    "synth pad": (
        "new age synth pad", "warm synth pad", "polysynth pad", "choir synth pad", "bowed glass synth pad",
        "metallic synth pad", "halo synth pad", "sweeping synth pad",
    ),
    "synth effects": (
        "rain synth effect", "soundtrack synth effect", "crystal synth effect", "atmosphere synth effect",
        "brightness synth effect", "goblin synth effect", "echo synth effect", "science fiction synth effect",
    ),
    "ethnic": (
        "sitar", "banjo", "shamisen", "koto", "kalimba", "bagpipes", "fiddle", "shehnai",
    ),
    "percussive": (
        "tinkle bell", "agogo bells", "steel drum", "woodblock", "taiko drum", "melodic tom", "synth drum",
        "reverse cymbal",
    ),
    "sound effects": (
        "guitar fret noise", "breath noise", "sea waves", "bird tweeting", "telephone ringing", "helicopter",
        "applause", "gunshot",
    ),
}  # fmt: skip

INSTRUMENTS: tuple[str, ...] = tuple(name for family in FAMILIES.values() for name in family)
"""By General MIDI program number, 0 to 127."""

_HOME: dict[int, tuple[str, ...]] = {
    -1: (
        *FAMILIES["bass"], "cello", "double bass", "timpani", "tuba", "trombone", "baritone saxophone", "bassoon",
        "taiko drum", "melodic tom",
    ),
    +1: (
        "celesta", "vibraphone", "xylophone", "tubular bells", "harmonica", "guitar harmonics", "violin", "fiddle",
        "trumpet", "muted trumpet", "soprano saxophone", "oboe", "clarinet", "flute", "recorder", "pan flute",
        "shakuhachi", "ocarina", "kalimba", "bagpipes", "shehnai", "steel drum",
    ),
    +2: ("glockenspiel", "music box", "piccolo", "whistle", "tinkle bell"),
}  # fmt: skip

OCTAVE: dict[str, int] = {name: octave for octave, names in _HOME.items() for name in names}
"""Octaves above the middle register; an instrument that is not in here is at home in it."""
