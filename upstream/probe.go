package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/via"
	"github.com/weirhq/weir/internal/zone"
	"github.com/weirhq/weir/oci"
)

// ProbeOptions bound the requests of a probe.
type ProbeOptions struct {
	// Repository and Reference name a manifest, as for [Client.Manifest]. If they
	// are empty, the probe requests the API's root and a token of no scope only.
	Repository string
	Reference  oci.Reference
	// Blob is one of the repository. If it is empty, the probe looks one up in
	// the manifest, unless the registry counts that against a rate limit.
	Blob digest.Digest
	// Spend makes the probe look a blob up despite a rate limit, which takes two
	// requests at most.
	Spend bool
}

// Support is whether a registry answers a kind of request.
type Support uint8

const (
	Untried Support = iota
	Supported
	Unsupported
)

// Report is the result of a probe. A field that the probe did not reach has its
// zero value.
type Report struct {
	Reached   bool
	Latency   time.Duration // of the API's root, without authentication
	Challenge string        // "basic", "bearer", or "" for a registry without authentication
	Accepted  bool          // the account may read the repository, or the API's root

	Head  Support // of a manifest
	Range Support // of a blob

	RateLimit *RateLimit // nil if no answer states one
	// Mirror is set if another mirror answered, or forwarded the answers.
	Mirror bool
	// Redirects are the other hosts that requests were redirected to.
	Redirects []string

	// Skew is how far the registry's clock is ahead of ours. HTTP dates are
	// whole seconds, and so it is off by about one.
	Skew  time.Duration
	Dated bool // whether there is a Skew
	// CertificateExpires is the end of the registry's TLS certificate, if it has
	// one.
	CertificateExpires time.Time

	// Err is the failure that ended the probe, nil if it reached its end.
	Err *Error
}

// RateLimit is the limit of requests that a registry states in its headers.
type RateLimit struct {
	Limit, Remaining int
	Window           time.Duration // 0: not stated
}

// Probe finds out how the registry can be used, with as few requests as possible:
// the API's root, the HEAD of a manifest, and the first byte of a blob, with
// redirects and authentication as in any other request. The end of ctx counts as
// a failure of the registry, which did not answer in time.
func (c *Client) Probe(ctx context.Context, o ProbeOptions) Report {
	p := &prober{client: c, options: o}
	for _, step := range []func(context.Context) error{p.root, p.manifest, p.blob} {
		err := step(ctx)
		if err == nil {
			continue
		}
		failure, ok := errors.AsType[*Error](err)
		if !ok { // the context's error
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

	links    *oci.Links // of the manifest that was read last; nil if none was
	registry bool       // the root answered as a registry's does
}

// root asks for /v2/ (distribution-spec end-1), without authentication.
func (p *prober) root(ctx context.Context) error {
	c := p.client
	req, err := c.rootRequest(ctx)
	if err != nil {
		return c.identify(asError(err), call{})
	}
	asked := time.Now()
	resp, err := c.ownTransport().RoundTrip(req)
	p.report.Latency = time.Since(asked)
	if err != nil {
		return c.identify(asError(err), call{})
	}
	p.report.Reached = true
	p.note(resp)
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// The registry wrote the date about half way through the request.
		p.report.Dated = true
		p.report.Skew = date.Sub(asked.Add(p.report.Latency / 2)).Round(time.Second)
	}
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		p.report.CertificateExpires = resp.TLS.PeerCertificates[0].NotAfter
	}
	if isRedirect(resp.StatusCode) && p.options.Repository == "" {
		status := resp.StatusCode
		resp, err = p.rootMoved(req, resp)
		switch {
		case errors.Is(err, errNoLocation), errors.Is(err, errRedirectLoop):
			return p.noRegistry(status) // a web server, perhaps with a login page
		case err != nil:
			return c.identify(asError(err), call{})
		}
	}
	if challenges := parseChallenges(resp.Header.Values("WWW-Authenticate")); len(challenges) > 0 {
		p.report.Challenge = challenges[0].scheme
	}
	return p.rootAnswered(ctx, resp)
}

// rootMoved returns the answer of the root where a redirect leads: some registries send /v2/ to
// /v2, and registry.k8s.io to the registry that has its images.
func (p *prober) rootMoved(req *http.Request, first *http.Response) (*http.Response, error) {
	c := p.client
	from := zoneOf(first, zone.Public)
	return followRedirects(req, c.maxRedirects, func(req *http.Request) (*http.Response, error) {
		if resp := first; resp != nil {
			first = nil
			return resp, nil
		}
		resp, err := c.transport(c.routes, req.URL, from).RoundTrip(req)
		if err == nil {
			p.note(resp)
		}
		return resp, err
	})
}

// rootAnswered decides which answers of the root end a probe. If there is a
// repository to ask for, most do not: the repository will tell.
func (p *prober) rootAnswered(ctx context.Context, resp *http.Response) error {
	c, alone := p.client, p.options.Repository == ""
	p.registry = p.report.Challenge != "" || resp.Header.Get(versionHeader) != ""
	switch {
	case resp.StatusCode == http.StatusOK:
		p.registry = isRoot(resp)
	case resp.StatusCode == http.StatusUnauthorized && p.registry && !c.ownAPI(resp.Request.URL):
		p.report.Challenge = "" // of a registry elsewhere, which gets no credentials
		discard(resp.Body)
		return nil
	case resp.StatusCode == http.StatusUnauthorized && alone && p.registry:
		return p.authenticate(ctx, resp)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || alone:
		return p.doubt(c.identify(c.refusal(resp), call{}))
	}
	discard(resp.Body)
	switch {
	case alone && !p.registry:
		return p.noRegistry(resp.StatusCode)
	case alone:
		p.report.Accepted = p.report.Challenge == ""
	}
	// Any other refusal may be for the root only. The manifest decides.
	return nil
}

// noRegistry returns the failure of a host that answers the root as another kind of
// server does.
func (p *prober) noRegistry(status int) error {
	return p.client.identify(&Error{Class: ClassUnavailable, Status: status, foreign: true}, call{})
}

// versionHeader is a header of many registries' answers, and of no other server's.
const versionHeader = "Docker-Distribution-Api-Version"

// isRoot reports whether an answer of 200 is one of the root of a registry's API. Its
// body is empty, or a JSON value that says nothing, for example {} or true.
func isRoot(resp *http.Response) bool {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer)) // real ones have a few bytes
	body = jsonOf(resp.Header, body, maxTokenAnswer)
	if resp.Header.Get(versionHeader) != "" {
		return true
	}
	if body = bytes.TrimSpace(body); err != nil || len(body) == 0 {
		return err == nil
	}
	// The API of another program answers with fields of its own.
	var members map[string]json.RawMessage
	return json.Valid(body) && (json.Unmarshal(body, &members) != nil || len(members) == 0)
}

// doubt returns a refusal by a host that nothing shows to be a registry as the answer
// of another kind of server.
func (p *prober) doubt(err error) error {
	failed, ok := errors.AsType[*Error](err)
	if !ok || !p.suspect(failed) {
		return err
	}
	doubted := *failed
	doubted.Class, doubted.foreign, doubted.page = ClassUnavailable, true, true
	return &doubted
}

// suspect reports whether a failure is one of another kind of server.
func (p *prober) suspect(e *Error) bool {
	switch {
	case e.doubtful():
		return true
	case p.registry || p.report.Challenge != "" || e.Code != "" || e.Class == ClassRateLimited:
		return false
	case e.Status == 0:
		// JSON that is not a manifest, from a host that has no root of an API either.
		return errors.Is(e.Err, oci.ErrNoType)
	case e.Class == ClassDenied:
		return e.foreign // an empty 403 is that of an allow list, too
	default:
		// A registry that is out of order may answer with nothing.
		return e.foreign || e.Status < http.StatusInternalServerError
	}
}

// authenticate repeats a refused request for the root, with the credentials or the
// token that the refusal asks for.
func (p *prober) authenticate(ctx context.Context, refused *http.Response) error {
	c := p.client
	way := c.authenticated(ctx, refused.Request.URL, "", zone.Public)
	wanted, ok := way.choose(refused)
	if !ok { // no challenge, or one for credentials that are not configured
		return c.identify(c.refusal(refused), call{})
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
		return c.identify(c.refusal(resp), call{})
	}
	registry := isRoot(resp)
	discard(resp.Body)
	// A web server may ask for a password, too.
	if !registry {
		return p.noRegistry(resp.StatusCode)
	}
	p.report.Accepted = true
	return nil
}

// manifest asks for the headers of the manifest, or for all of it if the registry
// has no usable HEAD.
func (p *prober) manifest(ctx context.Context) error {
	if p.options.Repository == "" {
		return nil
	}
	call := manifestCall(http.MethodHead, p.options.Repository, p.options.Reference)
	call.observe = p.note
	_, err := p.client.head(ctx, call, p.options.Reference)
	// The challenge for the repository counts, if there was one: that for the root
	// may differ.
	if answered, ok := p.client.auth.remembered.Get(challengeKey{origin: originOf(p.client.url), api: true, repository: p.client.repository(p.options.Repository)}); ok {
		p.report.Challenge = answered.scheme
	} else if err == nil {
		p.report.Challenge = "" // the repository is open, although the root may not be
	}
	if err == nil {
		p.report.Head = Supported
	}
	if answered(err) {
		if err = p.read(ctx, p.options.Reference); err == nil {
			p.report.Head = Unsupported
		}
	}
	p.report.Accepted = err == nil
	return p.doubt(err)
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
	p.report.Range = Unsupported // the answer was the whole blob
	if status == http.StatusPartialContent {
		p.report.Range = Supported
	}
	return nil
}

// findBlob returns a blob to ask for: a config, which is small. It returns "" if
// there is none, or if finding one would count against a rate limit.
func (p *prober) findBlob(ctx context.Context) (digest.Digest, error) {
	if p.options.Blob != "" || p.report.RateLimit != nil && !p.options.Spend {
		return p.options.Blob, nil
	}
	if p.links == nil { // HEAD worked, so no manifest was read so far
		if err := p.read(ctx, p.options.Reference); err != nil {
			return "", err
		}
	}
	// An index has no config: any of its manifests will do.
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

// note keeps the rate limit, the redirect and the mirror that any answer may state.
func (p *prober) note(resp *http.Response) {
	p.report.Mirror = p.report.Mirror || via.IsMirror(resp.Header)
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
