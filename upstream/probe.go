package upstream

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

// ProbeOptions say what a probe may ask for.
type ProbeOptions struct {
	// Repository and Reference name a manifest, as for [Client.Manifest]. Where
	// they are empty, only the API's root is asked, and a token of no scope.
	Repository string
	Reference  oci.Reference
	// Blob is one of the repository. Where it is empty, the probe looks one up
	// in the manifest, unless the registry counts that against a rate limit.
	Blob digest.Digest
	// Spend lets it do so even then, which takes two requests at most.
	Spend bool
}

// Support is whether a registry answers a kind of request.
type Support uint8

const (
	Untried Support = iota
	Supported
	Unsupported
)

// Report is what a probe found out about a registry. What it did not come to
// has its zero value.
type Report struct {
	Reached   bool
	Latency   time.Duration // of the API's root, without authentication
	Challenge string        // "basic", "bearer", or "" where nothing was asked for
	Accepted  bool          // what was asked for was granted to us

	Head  Support // of a manifest
	Range Support // of a blob

	RateLimit *RateLimit // nil where the registry does not tell
	// Redirects are the other hosts that requests were sent on to.
	Redirects []string

	// Skew is how far the registry's clock is ahead of ours. HTTP dates are
	// whole seconds, and so it is off by about one.
	Skew  time.Duration
	Dated bool // whether there is a Skew
	// CertificateExpires is when the registry's TLS certificate does, if there
	// is one.
	CertificateExpires time.Time

	// Err is what ended the probe, nil where nothing did.
	Err *Error
}

// RateLimit is what a registry says about its limit of requests.
type RateLimit struct {
	Limit, Remaining int
	Window           time.Duration // 0: not told
}

// Probe finds out how the registry can be used, with as few requests as that
// takes: the API's root, the HEAD of a manifest, and the first byte of a blob,
// with redirects and authentication as for any other request. It fails like all
// others, but for the end of the context, which counts as a registry that does
// not answer.
func (c *Client) Probe(ctx context.Context, o ProbeOptions) Report {
	p := &prober{client: c, options: o}
	for _, step := range []func(context.Context) error{p.root, p.manifest, p.blob} {
		err := step(ctx)
		if err == nil {
			continue
		}
		failure, ok := errors.AsType[*Error](err)
		if !ok {
			failure = c.identify(&Error{Class: ClassUnavailable, Err: context.Cause(ctx)}, call{repo: o.Repository, reference: o.Reference.String()})
		}
		p.report.Err = failure
		break
	}
	return p.report
}

// prober is one probe under way.
type prober struct {
	client  *Client
	options ProbeOptions
	report  Report

	links *oci.Links // of the manifest that was read last; nil if none was
}

// root asks for /v2/ (distribution-spec end-1), without authentication.
func (p *prober) root(ctx context.Context) error {
	c := p.client
	req, err := c.rootRequest(ctx)
	if err != nil {
		return c.identify(asError(err), call{})
	}
	asked := time.Now()
	resp, err := c.transport(req.URL).RoundTrip(req)
	p.report.Latency = time.Since(asked)
	if err != nil {
		return c.identify(asError(err), call{})
	}
	p.report.Reached = true
	p.note(resp)
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		p.report.Dated = true
		p.report.Skew = date.Sub(asked.Add(p.report.Latency / 2)).Round(time.Second)
	}
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		p.report.CertificateExpires = resp.TLS.PeerCertificates[0].NotAfter
	}
	if challenges := parseChallenges(resp.Header.Values("WWW-Authenticate")); len(challenges) > 0 {
		p.report.Challenge = challenges[0].scheme
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		p.report.Accepted = p.options.Repository == "" && p.report.Challenge == ""
	case resp.StatusCode == http.StatusUnauthorized && p.options.Repository == "":
		return p.authenticate(ctx, resp)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || p.options.Repository == "":
		return c.identify(c.refusal(resp, http.MethodGet), call{})
	}
	discard(resp.Body) // whatever else it says, the repository will tell
	return nil
}

// authenticate asks again for what was refused, with the credentials or the
// token that the refusal asks for.
func (p *prober) authenticate(ctx context.Context, refused *http.Response) error {
	c := p.client
	way := c.authenticated(refused.Request.URL, "")
	wanted, ok := way.choose(refused.Header.Values("WWW-Authenticate"))
	if !ok {
		return c.identify(c.refusal(refused, http.MethodGet), call{})
	}
	discard(refused.Body)
	way.remembered.Add(way.key(), wanted)
	p.report.Challenge = wanted.scheme
	req, err := c.rootRequest(ctx)
	if err != nil {
		return c.identify(asError(err), call{})
	}
	resp, err := way.RoundTrip(req)
	if err != nil {
		return c.identify(asError(err), call{})
	}
	if resp.StatusCode != http.StatusOK {
		return c.identify(c.refusal(resp, http.MethodGet), call{})
	}
	discard(resp.Body)
	p.report.Accepted = true
	return nil
}

// manifest asks for the headers of the manifest, or for all of it where HEAD is
// refused.
func (p *prober) manifest(ctx context.Context) error {
	if p.options.Repository == "" {
		return nil
	}
	_, err := p.do(ctx, manifestCall(http.MethodHead, p.options.Repository, p.options.Reference))
	if answered, ok := p.client.auth.remembered.Get(challengeKey{originOf(p.client.url), p.client.repository(p.options.Repository)}); ok {
		p.report.Challenge = answered.scheme
	} else if err == nil {
		p.report.Challenge = "" // whatever the root asks for, the repository asks for nothing
	}
	if err == nil {
		p.report.Head = Supported
	}
	if errors.Is(err, ErrHeadUnsupported) {
		if err = p.read(ctx, p.options.Reference); err == nil {
			p.report.Head = Unsupported
		}
	}
	p.report.Accepted = err == nil
	return err
}

// blob asks for the first byte of a blob.
func (p *prober) blob(ctx context.Context) error {
	if p.options.Repository == "" {
		return nil
	}
	dgst, err := p.findBlob(ctx)
	if dgst == "" || err != nil {
		return err
	}
	status, err := p.do(ctx, blobCall(http.MethodGet, p.options.Repository, dgst, "bytes=0-0"))
	if err != nil {
		return err
	}
	p.report.Range = Unsupported
	if status == http.StatusPartialContent {
		p.report.Range = Supported
	}
	return nil
}

// findBlob returns a blob to ask for: a config, which is small. It returns ""
// where there is none, or to find one would cost too much.
func (p *prober) findBlob(ctx context.Context) (digest.Digest, error) {
	if p.options.Blob != "" || p.report.RateLimit != nil && !p.options.Spend {
		return p.options.Blob, nil
	}
	if p.links == nil {
		if err := p.read(ctx, p.options.Reference); err != nil {
			return "", err
		}
	}
	if members := p.links.Manifests; len(members) > 0 {
		if err := p.read(ctx, oci.ByDigest(members[0].Digest)); err != nil {
			return "", err
		}
	}
	if p.links.Config == nil {
		return "", nil
	}
	return p.links.Config.Digest, nil
}

// read reads a manifest and keeps its links.
func (p *prober) read(ctx context.Context, ref oci.Reference) error {
	m, err := p.client.Manifest(ctx, p.options.Repository, ref)
	if err != nil {
		return err
	}
	// A document of another shape has no links, and so no blob to ask for.
	links, _ := oci.References(m.Body)
	p.links = &links
	return nil
}

// do sends a call and returns the status of a good answer.
func (p *prober) do(ctx context.Context, call call) (status int, err error) {
	call.observe = p.note
	resp, err := p.client.do(ctx, call)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}

// note keeps what any answer tells beside its content.
func (p *prober) note(resp *http.Response) {
	if limit, remaining, ok := parseRateLimit(resp.Header); ok {
		p.report.RateLimit = &RateLimit{limit, remaining, parseWindow(resp.Header)}
	}
	if !isRedirect(resp.StatusCode) {
		return
	}
	location, err := resp.Location()
	if err != nil {
		return
	}
	if host := strings.ToLower(location.Host); host != p.client.host && !slices.Contains(p.report.Redirects, host) {
		p.report.Redirects = append(p.report.Redirects, host)
	}
}
