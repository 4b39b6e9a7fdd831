// Package pulls counts the manifests that clients pull. The counts are in memory until the
// records of their repositories are written, each minute and at the end: a crash loses a
// minute.
//
//	Count ---> pending ---> record of this mirror ---\
//	                        records of other mirrors --+--> Of
//
// A record that cannot be written leaves its pulls pending.
package pulls

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
)

const (
	// pause is the time between two writings.
	pause = time.Minute
	// maxPending bounds the images and tags with pulls that are not written yet. An entry takes
	// 600 bytes with one client, 2 KiB with ten, and 4 KiB with the longest names of users. With that many, the records are
	// written at once.
	maxPending = 4096
	// maxClients is how many clients of an entry are remembered, the last ones.
	maxClients = 10
)

// Client is the sender of a request: a user, or the address of a client without credentials.
type Client struct {
	User    access.Name
	Address netip.Addr
}

// String returns the name of the user, or the address. It is valid UTF-8 of bounded length, and empty if nothing is known.
func (c Client) String() string {
	name := c.User.String()
	if name == "" && c.Address.IsValid() {
		name = c.Address.String()
	}
	name = strings.ToValidUTF8(name, "\uFFFD")
	for len(name) > catalog.MaxClientName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}

// Records keep the counts of repositories.
type Records interface {
	// AddPulls adds pulls to those that a mirror has counted.
	AddPulls(ctx context.Context, repo storage.RepoID, mirror string, pulls catalog.RepositoryPulls) error
	// Pulls returns the sum of all mirrors.
	Pulls(ctx context.Context, repo storage.RepoID) (catalog.RepositoryPulls, error)
}

// Options configure a [Counter].
type Options struct {
	Records Records
	// Mirror returns the name of this mirror among those that count in the same records. It
	// stays the same after a restart.
	Mirror func() string
	Health *storage.Health // of the records; nil: failures are not reported
}

// image is a manifest as it was pulled. The tag is empty if it was pulled by its digest.
type image struct {
	tag    string
	digest digest.Digest
}

// tally counts the pulls of an image that are not written yet.
type tally struct {
	pulls   int64
	last    time.Time
	clients []seen // few images are pulled by more than one client within a minute
}

// seen is the last pull of a client.
type seen struct {
	Client
	last time.Time
}

// Counter counts pulls. A nil *Counter counts nothing. All methods may be called concurrently.
type Counter struct {
	opts    Options
	full    notify.Signal
	stop    context.CancelFunc
	stopped chan struct{}

	// writing is held while pulls move from memory into a record, so that a reader sees them
	// once.
	writing sync.RWMutex

	mu      sync.Mutex
	pending map[storage.RepoID]map[image]*tally
	entries int // of all repositories
}

// New returns a counter, which writes until it is closed.
func New(opts Options) *Counter {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Counter{
		opts: opts, full: notify.NewSignal(), stop: cancel, stopped: make(chan struct{}),
		pending: make(map[storage.RepoID]map[image]*tally),
	}
	go c.run(ctx)
	return c
}

func (c *Counter) run(ctx context.Context) {
	defer close(c.stopped)
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-c.full.C():
		}
		c.write(ctx)
	}
}

// Close writes the pending pulls and ends the counter.
func (c *Counter) Close(ctx context.Context) {
	if c == nil {
		return
	}
	c.stop()
	<-c.stopped
	c.write(ctx)
}

// Count counts the pull of a manifest, by a tag or, if that is empty, by its digest. It
// allocates nothing for an image that was pulled within the last minute.
func (c *Counter) Count(repo storage.RepoID, tag string, dgst digest.Digest, by Client) {
	if c == nil {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.pending[repo][image{tag, dgst}]
	if t == nil {
		if t = c.add(repo, tag, dgst); t == nil {
			return
		}
	}
	t.pulls++
	t.last = now
	t.note(by, now)
}

// add makes the entry of an image. It returns nil if there are too many.
func (c *Counter) add(repo storage.RepoID, tag string, dgst digest.Digest) *tally {
	if c.entries >= maxPending/2 {
		c.full.Notify()
	}
	if c.entries == maxPending {
		return nil
	}
	c.entries++
	images := c.pending[repo]
	if images == nil {
		images = make(map[image]*tally)
		// The strings are parts of a request.
		c.pending[storage.RepoID{Namespace: strings.Clone(repo.Namespace), Name: strings.Clone(repo.Name)}] = images
	}
	t := new(tally)
	images[image{strings.Clone(tag), digest.Digest(strings.Clone(string(dgst)))}] = t
	return t
}

// note remembers a client with the time of its pull, in place of the one whose pull is the oldest.
func (t *tally) note(by Client, at time.Time) {
	oldest := 0
	for i := range t.clients {
		if t.clients[i].Client == by {
			t.clients[i].last = at
			return
		}
		if t.clients[i].last.Before(t.clients[oldest].last) {
			oldest = i
		}
	}
	if len(t.clients) < maxClients {
		t.clients = append(t.clients, seen{by, at})
		return
	}
	if t.clients[oldest].last.After(at) {
		return
	}
	t.clients[oldest] = seen{by, at}
}

// sum returns the pulls of a tally as a record has them.
func (t *tally) sum() catalog.Pulls {
	var clients []catalog.Client
	for _, s := range t.clients {
		if name := s.String(); name != "" {
			clients = append(clients, catalog.Client{Name: name, Last: s.last.UTC()})
		}
	}
	return catalog.PullsAt(t.pulls, t.last.UTC(), clients...)
}

// sumOf returns the pulls of a repository that are pending.
func sumOf(images map[image]*tally) catalog.RepositoryPulls {
	sum := catalog.RepositoryPulls{Tags: make(map[string]catalog.Pulls), Images: make(map[digest.Digest]catalog.Pulls)}
	for one, t := range images {
		pulls := t.sum()
		sum.All = sum.All.Plus(pulls)
		sum.Images[one.digest] = sum.Images[one.digest].Plus(pulls)
		if one.tag != "" {
			sum.Tags[one.tag] = sum.Tags[one.tag].Plus(pulls)
		}
	}
	return sum
}

// Of returns the pulls of a repository, those that are not written yet too.
func (c *Counter) Of(ctx context.Context, repo storage.RepoID) (catalog.RepositoryPulls, error) {
	c.writing.RLock()
	defer c.writing.RUnlock()
	written, err := c.opts.Records.Pulls(ctx, repo)
	if err != nil {
		return catalog.RepositoryPulls{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return written.Plus(sumOf(c.pending[repo])), nil
}

// write writes the pending pulls of all repositories. It ends at the first failure: the
// records of the others would most likely fail too.
func (c *Counter) write(ctx context.Context) {
	c.mu.Lock()
	repos := make([]storage.RepoID, 0, len(c.pending))
	for repo := range c.pending {
		repos = append(repos, repo)
	}
	c.mu.Unlock()
	for _, repo := range repos {
		err := c.writeOne(ctx, repo)
		switch {
		case ctx.Err() != nil: // the last writing comes after it
			return
		case err != nil:
			c.opts.Health.Failed(err, "repository", repo.String())
			return
		}
		c.opts.Health.Succeeded()
	}
}

func (c *Counter) writeOne(ctx context.Context, repo storage.RepoID) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	images := c.pending[repo]
	delete(c.pending, repo)
	c.entries -= len(images)
	c.mu.Unlock()
	err := c.opts.Records.AddPulls(ctx, repo, c.opts.Mirror(), sumOf(images))
	if err != nil {
		c.takeBack(repo, images)
	}
	return err
}

// takeBack makes pulls pending again that could not be written.
func (c *Counter) takeBack(repo storage.RepoID, images map[image]*tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.pending[repo]
	if now == nil && c.entries+len(images) <= maxPending {
		c.pending[repo] = images
		c.entries += len(images)
		return
	}
	for one, t := range images {
		later := now[one]
		if later == nil {
			if later = c.add(repo, one.tag, one.digest); later == nil {
				continue
			}
			now = c.pending[repo]
		}
		later.pulls += t.pulls
		if t.last.After(later.last) {
			later.last = t.last
		}
		for _, s := range t.clients {
			if !later.knows(s.Client) {
				later.note(s.Client, s.last)
			}
		}
	}
}

func (t *tally) knows(client Client) bool {
	return slices.ContainsFunc(t.clients, func(s seen) bool { return s.Client == client })
}
