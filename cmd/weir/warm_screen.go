package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"

	"github.com/weirhq/weir/storage/maintain"
	"github.com/weirhq/weir/warm"
)

// progressUI shows the progress of several images, each from its start to its end,
// which prints its result. Images are known by their names.
type progressUI interface {
	begin(image string) (advance func(warm.Progress))
	end(image, result string)
	close()
}

// newProgressUI returns a progressUI that prints results on stdout and progress on
// stderr: bars if stderr is a terminal, and lines otherwise.
func newProgressUI(stdout, stderr io.Writer) progressUI {
	if isTerminal(stderr) {
		s := &barScreen{terminal: stderr, bars: newBars(stderr), results: stdout, running: make(map[string]*mpb.Bar)}
		if isTerminal(stdout) {
			s.results = s.bars // which writes above the bars
		}
		return s
	}
	// A log gets lines: it cannot be redrawn.
	s := &lineScreen{stdout: stdout, stderr: stderr, running: make(map[string]warm.Progress), stop: make(chan struct{})}
	s.ended.Go(s.report)
	return s
}

// barScreen draws a bar for each image.
type barScreen struct {
	terminal io.Writer
	bars     *mpb.Progress
	results  io.Writer

	mu      sync.Mutex
	running map[string]*mpb.Bar
}

func (s *barScreen) begin(image string) func(warm.Progress) {
	bar := addBar(s.bars, image, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[image] = bar
	return func(p warm.Progress) {
		// The total grows while manifests are read. false: reaching it is not
		// the end.
		bar.SetTotal(p.Total.Bytes, false)
		bar.SetCurrent(p.Done.Bytes)
	}
}

func (s *barScreen) end(image, result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(s.results, result)
	s.running[image].Abort(true) // its removal also draws the result above the bars
	delete(s.running, image)
}

func (s *barScreen) close() {
	s.bars.Wait()
	clearLine(s.terminal)
}

// lineScreen writes a line for each running image every lineInterval.
type lineScreen struct {
	stdout, stderr io.Writer
	stop           chan struct{}
	ended          sync.WaitGroup

	mu      sync.Mutex
	running map[string]warm.Progress
}

func (s *lineScreen) begin(image string) func(warm.Progress) {
	advance := func(p warm.Progress) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running[image] = p
	}
	advance(warm.Progress{})
	return advance
}

func (s *lineScreen) end(image, result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(s.stdout, result)
	delete(s.running, image)
}

func (s *lineScreen) close() {
	close(s.stop)
	s.ended.Wait()
}

func (s *lineScreen) report() {
	tick := time.NewTicker(lineInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		for _, image := range slices.Sorted(maps.Keys(s.running)) {
			p := s.running[image]
			fmt.Fprintln(s.stderr, progressLine("warming "+image, maintain.Amount(p.Done), maintain.Amount(p.Total)))
		}
		s.mu.Unlock()
	}
}
