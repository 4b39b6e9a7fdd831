// Package check probes the upstreams of a configuration and reports how each of
// them is doing, for weir check --online.
//
// [Run] probes [Target]s with the clients of the mirror, so a proxy, credentials
// and certificates are those of a pull. A probe asks for an image, which comes
// from [Images]: one that the operator named, one that the mirror has cached, or a
// well-known public one. result.go turns the probe's report into a [Result].
package check

import (
	"context"
	"net/url"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/upstream"
)

// maxProbes is how many upstreams are probed at once. A probe waits for the
// network most of the time; eight finish a long list soon and surprise no
// firewall.
const maxProbes = 8

// Target is one upstream of one namespace, as the configuration names it.
type Target struct {
	Namespace   string // its key
	Key         string // in the configuration: repository."ghcr.io".upstream[0]
	URL         *url.URL
	Client      *upstream.Client
	Credentials bool // the client has a username or a credential helper
	Certificate bool // the client has a certificate
	Offline     bool // the namespace contacts no upstream, so neither does a probe
}

// Advice turns failures into sentences with the keys of the configuration, which
// this package does not know.
type Advice struct {
	// Failure names an upstream's failure and its remedy. keyOf returns the
	// configuration's name of the upstream with a host.
	Failure func(failed *upstream.Error, keyOf func(host string) string) string
	// MoreRequests returns the remedy for a rate limit that is used up.
	MoreRequests func(credentials bool) string
}

// Run probes all targets and returns a result for each client, in the order of
// the targets. Targets with the same client are probed once. When the context
// ends, the probes that are not done fail with its cause.
func Run(ctx context.Context, targets []Target, images *Images, advice Advice) []Result {
	checks := combine(targets, images)
	var group errgroup.Group
	group.SetLimit(maxProbes)
	for _, c := range checks {
		group.Go(func() error {
			c.probe(ctx)
			return nil // a probe's failure is part of its report
		})
	}
	_ = group.Wait() // no probe returns an error
	results := make([]Result, len(checks))
	for i, c := range checks {
		results[i] = c.result(time.Now(), advice)
	}
	return results
}

// check is one upstream with one set of credentials.
type check struct {
	blocks      []string // keys of all repository blocks that name it
	keys        []string // of all places in the configuration that name it
	host        string
	credentials bool
	certificate bool
	offline     bool
	client      *upstream.Client
	image       image
	report      upstream.Report
}

// combine makes one check of all targets that have the same client. An offline
// namespace does not keep another one's upstream from being probed.
func combine(targets []Target, images *Images) []*check {
	type place struct {
		client  *upstream.Client
		offline bool
	}
	var checks []*check
	known := make(map[place]*check)
	for _, t := range targets {
		// One client has one set of credentials, so one probe answers for all of its
		// targets.
		at := place{t.Client, t.Offline}
		c := known[at]
		if c == nil {
			c = &check{
				host: t.Client.Host(), client: t.Client, offline: t.Offline,
				credentials: t.Credentials, certificate: t.Certificate,
			}
			known[at] = c
			checks = append(checks, c)
		}
		// A block may name one upstream twice.
		if !slices.Contains(c.blocks, t.Namespace) {
			c.blocks = append(c.blocks, t.Namespace)
		}
		c.keys = append(c.keys, t.Key)
		c.image = bestImage(c.image, images.byKey[t.Namespace], wellKnown(t.URL))
	}
	return checks
}

// probe asks the upstream for its image. Only the API's root is asked if there is
// none.
func (c *check) probe(ctx context.Context) {
	// An offline namespace contacts no upstream, so its probe must not either.
	if c.offline {
		return
	}
	c.report = c.client.Probe(ctx, upstream.ProbeOptions{
		Repository: c.image.repository, Reference: c.image.reference, Blob: c.image.blob,
		// A read that counts against a rate limit needs the operator's word.
		Spend: c.image.origin == named,
	})
}
