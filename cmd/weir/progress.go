package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

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
		return bar{bars, addBar(bars, doing, total.Bytes)}
	}
	fmt.Fprintf(w, "%s %s\n", doing, describe(total))
	return &lines{w: w, doing: doing, total: total, last: time.Now()}
}

// newBars returns the container that draws bars on a terminal.
func newBars(terminal io.Writer) *mpb.Progress {
	return mpb.New(mpb.WithOutput(terminal), mpb.WithWidth(barWidth), mpb.WithRefreshRate(barInterval))
}

// addBar adds a bar that counts bytes, since objects differ too much in size. It is
// complete only when it is told so: the total may still grow.
func addBar(bars *mpb.Progress, doing string, total int64) *mpb.Bar {
	bar := bars.AddBar(0, // 0: no total that completes it
		mpb.PrependDecorators(
			decor.Name(doing, decor.WCSyncSpaceR),
			decor.NewPercentage("%d", decor.WC{W: 4})),
		mpb.AppendDecorators(
			decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncWidth),
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f", decor.WCSyncSpace),
			decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	bar.SetTotal(total, false)
	return bar
}

type bar struct {
	bars *mpb.Progress
	bar  *mpb.Bar
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
}

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
