package check

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

const (
	// skewLimit is the largest difference between an upstream's clock and ours
	// that is ignored. Tokens are valid for a minute or more, so half a minute
	// does no harm.
	skewLimit = 30 * time.Second
	// expirySoon is how long before its end a certificate is remarked on. Two
	// weeks leave time to renew it.
	expirySoon = 14 * 24 * time.Hour
)

// Values of [Result.Status].
const (
	StatusOK      = "ok"
	StatusFailed  = "failed"
	StatusSkipped = "skipped" // the namespace is offline
)

// Values of [Result.Authentication].
const (
	LoginAccepted  = "accepted"
	LoginAnonymous = "anonymous"
	LoginRefused   = "refused"
	LoginUnknown   = "unknown"
)

// Result is the state of one upstream. The names in JSON are for scripts and do
// not change. A null stands for a feature that was not tried, or for a figure that
// the upstream did not send.
type Result struct {
	Upstream           string     `json:"upstream"` // host
	Blocks             []string   `json:"blocks"`   // keys of the repository blocks that name it
	Keys               []string   `json:"keys"`     // in the configuration
	Status             string     `json:"status"`
	Image              string     `json:"image"` // that was asked for; "": only the API's root was
	Reachable          bool       `json:"reachable"`
	LatencyMS          *float64   `json:"latency_ms"`
	Authentication     string     `json:"authentication"`
	Challenge          string     `json:"challenge"` // basic, bearer, or "" for none
	Head               *bool      `json:"head"`
	Range              *bool      `json:"range"`
	RateLimit          *RateLimit `json:"rate_limit"`
	RedirectsTo        []string   `json:"redirects_to"`
	ClockSkewSeconds   *int64     `json:"clock_skew_seconds"` // positive: the upstream's clock is ahead
	CertificateExpires *time.Time `json:"certificate_expires"`
	Errors             []string   `json:"errors"`
	Remarks            []string   `json:"remarks"`
	// Asked is Image with its whole digest. Errors and remarks may name it, which not every reader
	// of a result may pull.
	Asked oci.Image `json:"-"`
}

// RateLimit is an upstream's limit on requests.
type RateLimit struct {
	Limit         int   `json:"limit"`
	Remaining     int   `json:"remaining"`
	WindowSeconds int64 `json:"window_seconds"` // 0: the upstream does not say
}

// result turns the report of a probe into a result.
func (c *check) result(now time.Time, advice Advice) Result {
	r := Result{
		Upstream: c.host, Blocks: c.blocks, Keys: c.keys, Status: StatusOK, Image: c.image.String(), Authentication: LoginUnknown,
		RedirectsTo: []string{}, Errors: []string{}, Remarks: []string{}, Asked: oci.Image{Name: c.image.repository, Reference: c.image.reference},
	}
	if c.offline {
		r.Status, r.Image, r.Asked = StatusSkipped, "", oci.Image{}
		return r
	}
	p := c.report
	r.Reachable, r.Challenge = p.Reached, p.Challenge
	r.Head, r.Range = asBool(p.Head), asBool(p.Range)
	r.RedirectsTo = append(r.RedirectsTo, p.Redirects...)
	// Figures of an upstream that was not reached stay null, not zero.
	if p.Reached {
		r.LatencyMS = new(float64(p.Latency.Microseconds()) / 1000)
	}
	if p.Dated {
		r.ClockSkewSeconds = new(int64(p.Skew / time.Second))
	}
	if !p.CertificateExpires.IsZero() {
		r.CertificateExpires = new(p.CertificateExpires.UTC())
	}
	if l := p.RateLimit; l != nil {
		r.RateLimit = &RateLimit{l.Limit, l.Remaining, int64(l.Window / time.Second)}
	}
	switch {
	// Without a challenge the password was not used, and the certificate was.
	case p.Accepted && p.Challenge == "" && c.certificate, p.Accepted && p.Challenge != "" && c.credentials:
		r.Authentication = LoginAccepted
	case p.Accepted:
		r.Authentication = LoginAnonymous
	}
	c.classify(&r, advice)
	c.remark(&r, now)
	if len(r.Errors) > 0 {
		r.Status = StatusFailed
	}
	return r
}

func asBool(s upstream.Support) *bool {
	if s == upstream.Untried {
		return nil
	}
	return new(s == upstream.Supported)
}

// classify adds the failure that ended a probe, as an error or as a remark.
func (c *check) classify(r *Result, advice Advice) {
	if limit := c.report.RateLimit; limit != nil && limit.Limit > 0 && limit.Remaining == 0 {
		r.Errors = append(r.Errors, fmt.Sprintf("its rate limit of %s is used up. %s", r.RateLimit, advice.MoreRequests(c.credentials)))
	}
	failed := c.report.Err
	if failed == nil {
		return
	}
	text := advice.Failure(failed, func(string) string { return strings.Join(c.keys, " and ") })
	switch {
	case failed.Class == upstream.ClassNotFound:
		// The upstream works; only the image was a wrong guess.
		r.Remarks = append(r.Remarks, text+". Name an existing image with --image")
	case failed.Class == upstream.ClassDenied && c.image.origin == public && !c.credentials && !failed.Foreign():
		// A public registry that has dropped its well-known image says "denied"
		// to anonymous clients.
		r.Remarks = append(r.Remarks, text+". Name an existing image with --image")
	case failed.Class == upstream.ClassDenied:
		r.Authentication = LoginRefused
		r.Errors = append(r.Errors, text)
	default:
		r.Errors = append(r.Errors, text)
	}
}

// remark adds observations that are not failures.
func (c *check) remark(r *Result, now time.Time) {
	p := c.report
	add := func(format string, args ...any) { r.Remarks = append(r.Remarks, fmt.Sprintf(format, args...)) }
	if p.Mirror {
		add("it is a mirror as well. Make sure that it is not this one, nor one that pulls from here")
	}
	if p.Head == upstream.Unsupported {
		add("it refuses HEAD. Each check of a tag reads the manifest, which may count against a rate limit")
	}
	if p.Range == upstream.Unsupported {
		add("it ignores ranges. A download that breaks off starts over")
	}
	if p.Skew.Abs() > skewLimit {
		direction := "ahead of"
		if p.Skew < 0 {
			direction = "behind"
		}
		add("its clock is %s %s this machine's. Check NTP on this machine, since tokens and certificates contain times", p.Skew.Abs(), direction)
	}
	// A certificate that has expired already is an error of the probe itself.
	if left := p.CertificateExpires.Sub(now); !p.CertificateExpires.IsZero() && left < expirySoon {
		add("its certificate expires on %s", p.CertificateExpires.UTC().Format(time.DateOnly))
	}
	switch {
	case p.Err != nil: // says itself why nothing more was tried
	case c.image.origin == unknown:
		add("HEAD and ranges were not tried. Name one of its images with --image")
	case p.Range == upstream.Untried && p.RateLimit != nil && c.image.origin != named:
		add("ranges were not tried, since this takes up to two requests of the rate limit. Name an image with --image to try them")
	}
}

// String returns the limit and its window, such as "100 in 6h".
func (l *RateLimit) String() string {
	text := fmt.Sprint(l.Limit)
	if l.WindowSeconds > 0 {
		text += " in " + units.Duration(time.Duration(l.WindowSeconds)*time.Second)
	}
	return text
}

// ClockWrong reports whether the upstream's clock is so far off that tokens and
// certificates may not work.
func (r Result) ClockWrong() bool {
	return r.ClockSkewSeconds != nil && (time.Duration(*r.ClockSkewSeconds)*time.Second).Abs() > skewLimit
}
