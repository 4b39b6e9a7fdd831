package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	clients  = 64
	tries    = 6               // of each request
	lastWait = 5 * time.Second // the longest before a try
	parallel = 3               // layers at a time, as docker pulls them
)

// client pulls through the mirror, and checks each answer.
type client struct {
	key     string // of the block that it pulls through
	mirrors *balancer
	content *content
	images  []image // of which it chooses
	weather *weather
	score   *score
	tries   int
	strict  bool // a pull that does not come is a violation while the mirror and an upstream are well
	follows bool // it is one of those that the mirror redirects to the bucket
	working func() []image
	liars   []*atomic.Int64
	random  *rand.Rand
	http    *http.Client
}

// newClient returns a client of one of several kinds: most keep connections as
// docker does, some open one for each request as podman does, and some speak
// HTTP/2.
func (s *soak) newClient(number int) *client {
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: parallel}
	follows := s.redirects && slices.Contains([]int{2, 5, 6, 7}, number%8) // some of each block
	if follows {
		transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(redirectedClient)}}).DialContext
	}
	switch number % 8 {
	case 1, 5:
		transport.DisableKeepAlives = true
	case 3:
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &client{
		key: []string{"one", "two"}[number%2], mirrors: s.mirrors, content: s.content, images: s.images, weather: s.weather,
		score: s.score, strict: s.strict, tries: s.tries, liars: s.liars,
		random:  rand.New(rand.NewChaCha8(seedOf(s.seed, fmt.Sprint("client ", number)))),
		follows: follows, working: s.working,
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// run works until the soak is over.
func (c *client) run(ctx context.Context) {
	defer c.http.CloseIdleConnections()
	for ctx.Err() == nil {
		images := c.images
		if c.working != nil {
			images = c.working()
		}
		image := images[c.random.IntN(len(images))]
		switch n := c.random.IntN(100); {
		case n < 40:
			c.pull(ctx, image, c.docker)
		case n < 55:
			c.pull(ctx, image, c.podman)
		case n < 65:
			c.pull(ctx, image, c.byDigest)
		case n < 80:
			c.pull(ctx, image, c.ranges)
		case n < 90:
			c.leave(ctx, image)
		case n < 95:
			c.heads(ctx, image)
		default:
			c.list(ctx, image.repo)
		}
	}
}

// pull counts a pull of one of the kinds.
func (c *client) pull(ctx context.Context, i image, kind func(context.Context, image) bool) {
	start := time.Now()
	switch {
	case kind(ctx, i):
		c.score.pulls.Add(1)
	case ctx.Err() == nil:
		c.score.givenUp.Add(1)
		if !c.weather.wasDark(start) {
			c.score.inLight.Add(1)
			if c.strict {
				c.violation("the pull of %s:%s through %s does not come in spite of all tries", i.repo, i.tag, c.key)
			}
		}
	}
}

// docker asks for the digest of a tag and pulls by that digest.
func (c *client) docker(ctx context.Context, i image) bool {
	named := manifest(i.repo, i.tag, i.digest)
	return c.persist(ctx, func() failure { return c.head(ctx, named) }) && c.byDigest(ctx, i)
}

// podman gets a tag, and then the rest.
func (c *client) podman(ctx context.Context, i image) bool {
	return c.fetch(ctx, manifest(i.repo, i.tag, i.digest)) && c.children(ctx, i)
}

func (c *client) byDigest(ctx context.Context, i image) bool {
	return c.fetch(ctx, manifest(i.repo, i.digest.String(), i.digest)) && c.children(ctx, i)
}

// children pulls the blobs that a manifest names: of an index the image of
// one platform, of an image the config and the layers, some at a time.
func (c *client) children(ctx context.Context, i image) bool {
	children := c.content.refers[i.digest]
	if c.content.isIndex(i.digest) {
		return c.byDigest(ctx, image{repo: i.repo, digest: children[c.random.IntN(len(children))]})
	}
	blobs := make(chan digest.Digest, len(children))
	for _, child := range children {
		blobs <- child
	}
	close(blobs)
	var group sync.WaitGroup
	whole := make([]bool, parallel)
	for n := range parallel {
		group.Go(func() {
			whole[n] = true
			for dgst := range blobs {
				whole[n] = whole[n] && c.fetch(ctx, blob(i.repo, dgst))
			}
		})
	}
	group.Wait()
	return !slices.Contains(whole, false)
}

// fetch gets a whole blob as docker does: after a cut it goes on where it
// was, and where the digest then is a wrong one it begins again. After a failure
// of the bucket it asks the mirror itself.
func (c *client) fetch(ctx context.Context, t target) bool {
	size := int64(len(c.content.bodies[t.digest]))
	var have int64
	wrong, here := false, false
	return c.persist(ctx, func() failure {
		if have > 0 && have < size {
			c.score.resumed.Add(1)
		}
		p := c.read(ctx, t, have, size, here)
		wrong = wrong || p.wrong
		here = here || p.elsewhere && (p.failure != fine || p.wrong)
		have = min(have+p.read, size)
		if p.failure == fine && wrong {
			p.failure = cut // it was, before
		}
		if have == size {
			have, wrong = 0, false
		}
		return p.failure
	})
}

// ranges gets a layer in some parts, each of which goes on where the client
// left the one before.
func (c *client) ranges(ctx context.Context, i image) bool {
	blobs := c.content.blobs[i.repo]
	t := blob(i.repo, blobs[c.random.IntN(len(blobs))])
	size := int64(len(c.content.bodies[t.digest]))
	parts := 2 + c.random.Int64N(3)
	for n := range parts {
		from, to := n*size/parts, (n+1)*size/parts
		here := false
		if !c.persist(ctx, func() failure {
			p := c.read(ctx, t, from, to, here)
			here = here || p.elsewhere
			return p.failure
		}) {
			return false
		}
	}
	return true
}

// leave starts to get a layer and goes away.
func (c *client) leave(ctx context.Context, i image) {
	blobs := c.content.blobs[i.repo]
	t := blob(i.repo, blobs[c.random.IntN(len(blobs))])
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, failed := c.request(ctx, http.MethodGet, t.path(c.key), nil)
	if failed != fine {
		return
	}
	defer resp.Body.Close()
	truth := c.content.bodies[t.digest]
	some := make([]byte, 1+c.random.IntN(min(len(truth), mib)))
	n, _ := resp.Body.Read(some) // as much as there is at once
	c.score.served.Add(int64(n))
	c.score.left.Add(1)
}

// heads asks for all that an image names, without bodies.
func (c *client) heads(ctx context.Context, i image) {
	if c.content.isIndex(i.digest) {
		return
	}
	for _, dgst := range c.content.refers[i.digest] {
		c.persist(ctx, func() failure { return c.head(ctx, blob(i.repo, dgst)) })
	}
}

// list asks for the tags of a repository.
func (c *client) list(ctx context.Context, repo string) {
	path := "/v2/" + c.key + "/" + repo + "/tags/list"
	c.persist(ctx, func() failure {
		start := time.Now()
		resp, failed := c.request(ctx, http.MethodGet, path, nil)
		if failed == fine {
			defer resp.Body.Close()
			var list struct{ Tags []string }
			if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
				failed = cut
			} else if !c.rightTags(repo, list.Tags, resp.Header.Get("Warning") != "") {
				failed = c.violation("GET %s: %q", path, list.Tags)
			}
		}
		c.score.failed(failed, !c.weather.wasDark(start))
		return failed
	})
}

// rightTags reports whether a list of tags is a repository's. One that comes
// with a Warning, because the upstreams fail, may be of the cached ones only.
func (c *client) rightTags(repo string, tags []string, warned bool) bool {
	all := c.content.tags[repo]
	for _, tag := range tags {
		if _, ok := all[tag]; !ok {
			return false
		}
	}
	return len(tags) == len(all) || warned && len(tags) > 0
}

// persist asks until it gets an answer, a limited number of times. It waits for
// a mirror that is down, and before it asks again as docker does: with the
// troublemaker's and the proxy's, these are the waits for a time to pass.
func (c *client) persist(ctx context.Context, ask func() failure) bool {
	for try := range c.tries {
		switch ask() {
		case fine:
			return true
		case over, unexpected:
			return false
		}
		pause(ctx, min(100*time.Millisecond<<try, lastWait))
		c.mirrors.awaitUp(ctx)
	}
	return false
}

// violation notes an answer that a client must never see.
func (c *client) violation(format string, args ...any) failure {
	c.score.violated(time.Now().Format("15:04:05.000 ") + fmt.Sprintf(format, args...))
	return unexpected
}

// lastLie is when a proxy last changed a byte.
func (c *client) lastLie() time.Time {
	var last int64
	for _, liar := range c.liars {
		last = max(last, liar.Load())
	}
	return time.Unix(0, last)
}

// pause waits, unless the soak is over before.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
