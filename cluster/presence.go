package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strconv"
	"time"
)

const (
	// awayInterval is the time between two heartbeats while Redis is unavailable, so that its
	// return is noticed soon.
	awayInterval = time.Second
	// sureAfter is how many heartbeats in a row a twin or a stranger must live: the earlier process
	// of a replica that was started again does so for a while.
	sureAfter = 3
	// maxProbed bounds the replicas that were asked for their names.
	maxProbed = maxMembers
	// maxProbes bounds those of one heartbeat.
	maxProbes = 8
)

// randomToken returns a text that no other process makes.
func randomToken() string { return rand.Text() }

// member is a replica as it describes itself to the others. All versions have this form, so
// that they can tell each other that they differ.
type member struct {
	Version int    `json:"v"`
	ID      string `json:"id"`
	URL     string `json:"url"`
	Seal    string `json:"seal,omitempty"`
}

func (m member) fields(key string) []string {
	return []string{key, strconv.Itoa(m.Version), m.ID, m.URL}
}

// presence is a replica's knowledge of the others, for lines of the log.
type presence struct {
	cluster *Cluster
	twin    int             // heartbeats in a row at which another process had this URL
	told    bool            // about the twin
	foreign int             // heartbeats in a row at which another process had another secret
	warned  bool            // about the foreign one
	probed  map[string]bool // URLs and names that were asked
}

// heartbeat announces this replica to the others, until the context ends. It decides whether
// Redis is back after a failure.
func (c *Cluster) heartbeat(ctx context.Context) {
	p := &presence{cluster: c, probed: make(map[string]bool)}
	interval := c.opts.Lease / 3
	for {
		pause := interval
		members, strangers, err := c.enter(ctx, interval*3/2)
		if err == nil {
			p.note(ctx, members)
			p.noteStrangers(strangers)
		} else {
			pause = min(awayInterval, interval)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// replicasKey is the name of the set of replicas.
func replicasKey(prefix string) string { return prefix + ":replicas" }

// enter notes this replica in Redis, and returns those that did so within some time, with the
// number of those that have another secret.
func (c *Cluster) enter(ctx context.Context, within time.Duration) (members []member, strangers int, err error) {
	err = c.gate.probe(ctx, func(ctx context.Context, b board, prefix string) error {
		key := replicasKey(prefix)
		own := member{Version: version, ID: c.id, URL: c.opts.URL}
		own.Seal = c.sealer.Seal(own.fields(key)...)
		values, err := b.Enter(ctx, key, encode(own), within)
		members, strangers = c.readMembers(key, values)
		return err
	})
	return members, strangers, err
}

// readMembers reads the replicas of a list. Those with another secret are left out and counted:
// any client of Redis may have written their names.
func (c *Cluster) readMembers(key string, values []string) (members []member, strangers int) {
	for _, value := range values[:min(len(values), maxMembers)] {
		var m member
		switch {
		case len(value) > maxValue || json.Unmarshal([]byte(value), &m) != nil || !validURL(m.URL):
		case c.sealer.Valid(m.Seal, m.fields(key)...):
			members = append(members, m)
		default:
			strangers++
		}
	}
	return members, strangers
}

// noteStrangers logs once that other processes have another secret. While the secret is changed
// the earlier process of a replica seems to have one for a while.
func (p *presence) noteStrangers(number int) {
	if p.foreign++; number == 0 {
		p.foreign = 0
	}
	if p.foreign >= sureAfter && !p.warned {
		p.warned = true
		p.cluster.warn("replicas with a different secret share this Redis. They and this one download independently", "replicas", strconv.Itoa(number), ErrSecret)
	}
}

// note logs each thing once that keeps replicas from reading each other.
func (p *presence) note(ctx context.Context, members []member) {
	c, twin, probes := p.cluster, false, 0
	for _, m := range members {
		if m.ID == c.id {
			continue
		}
		if m.URL == c.opts.URL {
			twin = true
			continue
		}
		at := m.URL + " " + m.ID
		if p.probed[at] || probes >= maxProbes {
			continue
		}
		if len(p.probed) >= maxProbed {
			clear(p.probed) // many have come and gone
		}
		p.probed[at] = true
		if probes++; m.Version != version {
			c.warn("a replica of another version shares this Redis", "replica", m.URL, ErrVersion)
			continue
		}
		p.probe(ctx, m)
	}
	if p.twin++; !twin {
		p.twin = 0
	}
	if p.twin >= sureAfter && !p.told {
		p.told = true
		c.warn("another replica has the same address, so the others reach only one of the two", "replica", c.opts.URL, ErrTwin)
	}
}

// probe asks a replica for its name.
func (p *presence) probe(ctx context.Context, m member) {
	c := p.cluster
	name, err := c.peers.name(ctx, m.URL)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.warn("another replica cannot be reached. The two download independently", "replica", m.URL, err)
	case name == c.id:
		c.warn("the address of another replica leads to this one", "replica", m.URL, ErrTwin)
	case name != m.ID:
		c.opts.Logger.Debug("a replica was started again", "replica", m.URL)
	default:
		c.opts.Logger.Info("another replica can be reached", "replica", m.URL)
	}
}
