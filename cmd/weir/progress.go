package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/storage/maintain"
)

const (
	// barInterval is how often bars are redrawn: smooth for the eye, and cheap.
	barInterval = 100 * time.Millisecond
	// barWidth is the width of a bar without the figures around it, in columns.
	// With them a line fits into 80.
	barWidth = 32
	// lineInterval is how often a line is written if there is no terminal: a log
	// of an hour has some hundred lines.
	lineInterval = 10 * time.Second
)

// progress shows how much of a task is done.
type progress interface {
	advance(done maintain.Amount)
	end(complete bool)
}

// newProgress returns a bar if w is a terminal, and lines otherwise.
func newProgress(w io.Writer, doing string, total maintain.Amount) progress {
	if isTerminal(w) {
		bars := newBars(w)
		return bar{w, bars, addBar(bars, doing, total.Bytes)}
	}
	fmt.Fprintf(w, "%s %s\n", doing, describe(total))
	return &lines{w: w, doing: doing, total: total, last: time.Now()}
}

// newBars returns the container that draws bars on a terminal.
func newBars(terminal io.Writer) *mpb.Progress {
	screen := cupwriter.New(lineStart{terminal}, false)
	if f, ok := terminal.(*os.File); ok {
		screen.SetTermFd(int(f.Fd()))
	}
	return mpb.New(mpb.WithConsoleWriter(screen), mpb.WithWidth(barWidth), mpb.WithRefreshRate(barInterval))
}

// lineStart begins each write at the left edge of a terminal. The terminal shows "^C"
// when the user presses that, and the bars would be erased from the column after it.
type lineStart struct{ terminal io.Writer }

func (w lineStart) Write(p []byte) (int, error) {
	if _, err := w.terminal.Write(append([]byte{'\r'}, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// addBar adds a bar that counts bytes, since objects differ too much in size. It is
// complete only when it is told so: the total may still grow.
func addBar(bars *mpb.Progress, doing string, total int64) *mpb.Bar {
	begun := time.Now()
	bar := bars.AddBar(0, // 0: no total that completes it
		mpb.PrependDecorators(
			decor.Name(doing, decor.WCSyncSpaceR),
			decor.NewPercentage("%d", decor.WC{W: 4})),
		// The units are those of all other output, not those of the library.
		mpb.AppendDecorators(
			decor.Any(func(s decor.Statistics) string { return units.IEC(s.Current) + " / " + units.IEC(s.Total) }, decor.WCSyncWidth),
			decor.Any(func(s decor.Statistics) string { return units.Rate(s.Current, time.Since(begun)) }, decor.WCSyncSpace),
			decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	bar.SetTotal(total, false)
	return bar
}

type bar struct {
	terminal io.Writer
	bars     *mpb.Progress
	bar      *mpb.Bar
}

func (b bar) advance(done maintain.Amount) { b.bar.SetCurrent(done.Bytes) }

func (b bar) end(complete bool) {
	if complete {
		// -1 takes the current count for the total, so that the bar ends at
		// 100% also if the content was less than expected.
		b.bar.SetTotal(-1, true)
	} else {
		b.bar.Abort(false)
	}
	b.bars.Wait()
	clearLine(b.terminal)
}

// clearLine empties the terminal's current line, which is the one below all bars. If
// the user pressed Ctrl-C, it shows "^C", and the next line of output would begin there.
func clearLine(terminal io.Writer) { fmt.Fprint(terminal, "\r\x1b[K") }

type lines struct {
	w     io.Writer
	doing string
	total maintain.Amount
	last  time.Time
}

func (l *lines) advance(done maintain.Amount) {
	if time.Since(l.last) < lineInterval {
		return
	}
	l.last = time.Now()
	fmt.Fprintln(l.w, progressLine(l.doing, done, l.total))
}

func (l *lines) end(bool) {}

// progressLine says in one line how much of a task is done.
func progressLine(doing string, done, total maintain.Amount) string {
	// An image without bytes is not a division by zero.
	percent := 100 * float64(done.Bytes) / float64(max(total.Bytes, 1))
	return fmt.Sprintf("%s: %.0f%% (%s)", doing, min(percent, 100), describe(done))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// describe returns an amount as it is printed, such as "3 objects, 1.2 MiB".
func describe(a maintain.Amount) string {
	noun := "objects"
	if a.Objects == 1 {
		noun = "object"
	}
	return fmt.Sprintf("%s %s, %s", humanize.Comma(a.Objects), noun, units.IEC(a.Bytes))
}

// writerUnlessQuiet returns w, or a writer that discards everything.
func writerUnlessQuiet(quiet bool, w io.Writer) io.Writer {
	if quiet {
		return io.Discard
	}
	return w
}
