package download

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// State is what a download does at a moment.
type State struct {
	Repository storage.RepoID // that it began for. Others of its namespace may have joined
	Digest     digest.Digest
	Activity   Activity
	Started    time.Time
	Origin     string // of the last stream: the name of an upstream or of an [Origin]; empty before the first one
	Offset     int64  // bytes that have come without a gap
	Rate       int64  // bytes a second since it began or went on; 0 if it is not Running
	Size       int64  // -1: not known yet
	Clients    int    // that read it now
}

// Activity is what a download does, in a word for people.
type Activity string

const (
	Waiting    Activity = "waiting"    // for a slot
	Running    Activity = "running"    // the bytes come
	Paused     Activity = "paused"     // no client is left, and no job has taken it over yet
	Committing Activity = "committing" // complete; the store takes it
)

// Running returns the states of the downloads that have begun and not ended, the oldest first.
func (g *Group) Running() []State {
	g.mu.Lock()
	downloads := make([]*Download, 0, len(g.downloads))
	for _, d := range g.downloads {
		downloads = append(downloads, d)
	}
	g.mu.Unlock()
	states := make([]State, 0, len(downloads))
	for _, d := range downloads {
		if s, ok := d.state(); ok {
			states = append(states, s)
		}
	}
	slices.SortFunc(states, func(a, b State) int { return a.Started.Compare(b.Started) })
	return states
}

// state returns the state of a download. It reports false if the store is still searched for the
// content, or the download has ended.
func (d *Download) state() (State, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := State{Repository: d.src.Repository, Digest: d.digest, Started: d.started, Origin: d.origin, Size: -1, Clients: d.clients}
	switch d.phase {
	case waiting:
		s.Activity = Waiting
	case copying:
		s.Activity = Running
	case paused:
		s.Activity = Paused
	case committing:
		s.Activity = Committing
	default:
		return State{}, false
	}
	if d.spool != nil {
		s.Offset, s.Size = d.spool.Written(), d.spool.Size()
	}
	if took := time.Since(d.since); d.phase == copying && took > 0 {
		s.Rate = int64(float64(s.Offset-d.from) / took.Seconds())
	}
	return s, true
}
