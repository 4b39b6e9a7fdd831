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

// screen shows how far several images have come, each from its begin to its
// end, which prints its result. Images are known by their names.
type screen interface {
	begin(image string) (advance func(warm.Progress))
	end(image, result string)
	close()
}

// newScreen returns a screen that prints results on stdout and the rest on
// stderr: a bar for each image where that is a terminal, else lines.
func newScreen(stdout, stderr io.Writer) screen {
	if isTerminal(stderr) {
		s := &barScreen{bars: newBars(stderr), results: stdout, running: make(map[string]*mpb.Bar)}
		if isTerminal(stdout) {
			s.results = s.bars // which writes above the bars
		}
		return s
	}
	s := &lineScreen{stdout: stdout, stderr: stderr, running: make(map[string]warm.Progress), stop: make(chan struct{})}
	s.ended.Go(s.report)
	return s
}

// barScreen draws bars of what is being warmed.
type barScreen struct {
	bars    *mpb.Progress
	results io.Writer

	mu      sync.Mutex
	running map[string]*mpb.Bar
}

func (s *barScreen) begin(image string) func(warm.Progress) {
	bar := addBar(s.bars, image, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[image] = bar
	return func(p warm.Progress) {
		bar.SetTotal(p.Total.Bytes, false)
		bar.SetCurrent(p.Done.Bytes)
	}
}

func (s *barScreen) end(image, result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(s.results, result)
	s.running[image].Abort(true) // and with its removal the result is drawn
	delete(s.running, image)
}

func (s *barScreen) close() { s.bars.Wait() }

// lineScreen writes a line now and then for each image that is being warmed.
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
			fmt.Fprintln(s.stderr, far("warming "+image, maintain.Amount(p.Done), maintain.Amount(p.Total)))
		}
		s.mu.Unlock()
	}
}
