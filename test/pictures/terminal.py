"""A terminal in which a program runs, and its picture: an SVG with text, which moves if it is of more than one moment."""
import fcntl
import os
import pty
import signal
import struct
import termios
import threading
import time
from html import escape

import pyte

WIDTH, HEIGHT, FONT = 8.4, 19, 14  # of a character, a line, and the letters, in pixels
MARGIN = 14
MOMENT = 0.2  # seconds between two frames at least
LONGEST = 1.0  # seconds that a frame stands, however long the program was silent
END = 5.0  # seconds that the last frame stands

BACKGROUND, FOREGROUND, EDGE = "#16181d", "#d6d9e0", "#3a404c"
COLOURS = {
    "black": "#5c6370", "red": "#ff7b86", "green": "#8fd694", "brown": "#e8c274", "blue": "#7fb4ff", "magenta": "#d7a3f0",
    "cyan": "#6fd3da", "white": "#d6d9e0", "brightblack": "#8b93a3", "brightred": "#ff9aa2", "brightgreen": "#a8e6ac",
    "brightbrown": "#f3d596", "brightyellow": "#f3d596", "brightblue": "#a3caff", "brightmagenta": "#e6c0f8",
    "bfightmagenta": "#e6c0f8", "brightcyan": "#93e4ea", "brightwhite": "#ffffff",
}


class Screen(pyte.Screen):
    """A screen that knows faint text, which it shows in grey."""

    def select_graphic_rendition(self, *attributes, **kind):
        if 38 not in attributes and 48 not in attributes:
            attributes = [90 if a == 2 else a for a in attributes]
        super().select_graphic_rendition(*attributes, **kind)


class Terminal:
    """A program in a terminal of its own, with all that it wrote, and when."""

    def __init__(self, command, columns, rows, **settings):
        self.columns, self.rows = columns, rows
        self.written = []  # pairs of a time and bytes
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(settings["cwd"])
            os.execvpe(command[0], command, {**settings["env"], "TERM": "xterm-256color", "COLORTERM": "truecolor"})
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)
        self.reading = threading.Thread(target=self.read, daemon=True)
        self.reading.start()

    def read(self):
        while True:
            try:
                block = os.read(self.master, 1 << 16)
            except OSError:  # the program has ended
                return
            if not block:
                return
            self.written.append((time.monotonic(), block))

    def press(self, keys):
        os.write(self.master, keys.encode())

    def wait(self, seconds):
        """Waits for the end of the program."""
        self.reading.join(seconds)
        if self.reading.is_alive():
            os.kill(self.pid, signal.SIGKILL)
            raise TimeoutError(f"the program in the terminal has not ended within {seconds} s")
        os.waitpid(self.pid, 0)

    def frames(self, since=0.0, until=float("inf")):
        """What stood in the terminal from one time to another: pairs of a time and lines."""
        screen = Screen(self.columns, self.rows)
        stream = pyte.ByteStream(screen)
        frames = []
        for at, block in list(self.written):
            if at > until:
                break
            stream.feed(block)
            if at < since:
                frames = [(since, lines(screen))]
            elif frames and at - frames[-1][0] < MOMENT and len(frames) > 1:
                frames[-1] = (frames[-1][0], lines(screen))
            elif not frames or frames[-1][1] != lines(screen):
                frames.append((at, lines(screen)))
        return frames


def lines(screen):
    """The lines on a screen, each as parts of one style: the column, the text, how many columns it takes, its style."""
    found = []
    for row in range(screen.lines):
        parts, column = [], 0
        for column in range(screen.columns):
            char = screen.buffer[row][column]
            if char.data == "":  # the second half of a wide one
                continue
            fg, bg = (char.bg, char.fg) if char.reverse else (char.fg, char.bg)
            style = (fg, bg, char.bold, char.italics, char.underscore)
            if parts and parts[-1][2] == style and parts[-1][0] + columns(parts[-1][1]) == column:
                parts[-1][1] += char.data
            else:
                parts.append([column, char.data, style])
        while parts and parts[-1][2][1] == "default" and not parts[-1][1].rstrip():
            parts.pop()
        if parts and parts[-1][2][1] == "default":
            parts[-1][1] = parts[-1][1].rstrip()
        found.append(tuple((column, text, style) for column, text, style in parts))
    return tuple(found)


def columns(text):
    return sum(pyte.screens.wcwidth(char) for char in text)


def colour(name, usual):
    if name == "default":
        return usual
    return COLOURS.get(name, "#" + name)


def draw(line):
    """A line as SVG, with its upper left corner at 0, 0."""
    drawn = []
    for column, text, (fg, bg, bold, italics, underscore) in line:
        width = columns(text) * WIDTH
        if bg != "default":
            drawn.append(f'<rect x="{column * WIDTH:.1f}" width="{width:.1f}" height="{HEIGHT}" fill="{colour(bg, BACKGROUND)}"/>')
        if not text.strip():
            continue
        look = f' fill="{colour(fg, FOREGROUND)}"' if fg != "default" else ""
        look += ' font-weight="bold"' if bold else ""
        look += ' font-style="italic"' if italics else ""
        look += ' text-decoration="underline"' if underscore else ""
        # Its length keeps columns in place whatever font there is.
        drawn.append(f'<text x="{column * WIDTH:.1f}" y="{HEIGHT - 5}" textLength="{width:.1f}"{look}>{escape(text)}</text>')
    return "".join(drawn)


def picture(frames, width, title):
    """An SVG of frames. Where the reader prefers no motion, and where it is printed, it is the last one."""
    first = min(used(frame)[0] for _, frame in frames)
    rows = max(used(frame)[1] for _, frame in frames) - first
    inner = (width * WIDTH, rows * HEIGHT)
    outer = tuple(round(side + 2 * MARGIN) for side in inner)
    known, film = {}, []
    for i, (_, frame) in enumerate(frames):
        for row, line in enumerate(frame[first:first + rows]):
            if line:
                known.setdefault(line, f"l{len(known)}")
                film.append(f'<use href="#{known[line]}" y="{(i * rows + row) * HEIGHT}"/>')
    style = f"svg{{font:{FONT}px ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace}}text{{white-space:pre}}"
    if len(frames) > 1:
        stands = [min(after - at, LONGEST) for (at, _), (after, _) in zip(frames, frames[1:])] + [END]
        total, passed, steps = sum(stands), 0.0, []
        for i, seconds in enumerate(stands):
            steps.append(f"{100 * passed / total:.2f}%{{transform:translateY({-i * inner[1]}px)}}")
            passed += seconds
        last = f"translateY({-(len(frames) - 1) * inner[1]}px)"
        style += (f".film{{transform:{last};animation:film {total:.2f}s step-end infinite}}@keyframes film{{{''.join(steps)}"
                  f"100%{{transform:{last}}}}}@media print,(prefers-reduced-motion:reduce){{.film{{animation:none}}}}")
    defs = "".join(f'<g id="{name}">{draw(line)}</g>' for line, name in known.items())
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{outer[0]}" height="{outer[1]}" viewBox="0 0 {outer[0]} {outer[1]}" '
            f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title><style>{style}</style><defs>{defs}</defs>'
            f'<rect x=".5" y=".5" width="{outer[0] - 1}" height="{outer[1] - 1}" rx="8" fill="{BACKGROUND}" stroke="{EDGE}"/>'
            f'<svg x="{MARGIN}" y="{MARGIN}" width="{inner[0]:.0f}" height="{inner[1]}" fill="{FOREGROUND}">'
            f'<g class="film">{"".join(film)}</g></svg></svg>\n')


def used(frame):
    """The first row with something in it, and the one behind the last."""
    rows = [row for row, line in enumerate(frame) if line]
    return (rows[0], rows[-1] + 1) if rows else (0, 1)
