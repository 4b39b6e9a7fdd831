package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/weirhq/weir/storage"
)

const (
	// barInterval is how often a bar is drawn anew at most.
	barInterval = 100 * time.Millisecond
	// lineInterval is how often a line is written where there is no terminal.
	lineInterval = 10 * time.Second
)

// progress shows how far something has come.
type progress interface {
	advance(so storage.Amount) // far
	end(complete bool)
}

// newProgress returns a bar where w is a terminal, and else lines.
func newProgress(w io.Writer, doing string, total storage.Amount) progress {
	if isTerminal(w) {
		return bar{progressbar.NewOptions64(max(total.Bytes, 1), // it refuses 0
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetDescription(doing),
			progressbar.OptionSetWidth(30),
			progressbar.OptionShowCount(),
			progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionShowTotalBytes(true),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(barInterval),
			progressbar.OptionSetRenderBlankState(true),
		), w}
	}
	fmt.Fprintf(w, "%s %s\n", doing, describe(total))
	return &lines{w: w, doing: doing, total: total, last: time.Now()}
}

// bar counts bytes: objects differ too much in size.
type bar struct {
	*progressbar.ProgressBar
	w io.Writer
}

// advance stops short of the end, which Finish draws: there may be more than was
// counted, since a mirror runs beside.
func (b bar) advance(so storage.Amount) { _ = b.Set64(min(so.Bytes, b.GetMax64()-1)) }

func (b bar) end(complete bool) {
	if complete {
		_ = b.Finish()
	}
	fmt.Fprintln(b.w)
}

type lines struct {
	w     io.Writer
	doing string
	total storage.Amount
	last  time.Time
}

func (l *lines) advance(so storage.Amount) {
	if time.Since(l.last) < lineInterval {
		return
	}
	l.last = time.Now()
	percent := 100 * float64(so.Bytes) / float64(max(l.total.Bytes, 1))
	fmt.Fprintf(l.w, "%s: %.0f%% (%s)\n", l.doing, min(percent, 100), describe(so))
}

func (l *lines) end(bool) {}
