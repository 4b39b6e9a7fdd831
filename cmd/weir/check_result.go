package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weirhq/weir/internal/units"
	"github.com/weirhq/weir/upstream"
)

const (
	// skewLimit is how far an upstream's clock may be off before that is worth
	// a word: tokens and certificates have times in them.
	skewLimit = 30 * time.Second
	// expirySoon is how long before a certificate's end that is worth a word.
	expirySoon = 14 * 24 * time.Hour
)

// Values of result.Status.
const (
	statusOK      = "ok"
	statusFailed  = "failed"
	statusSkipped = "skipped"
)

// Values of result.Authentication.
const (
	loginAccepted  = "accepted"
	loginAnonymous = "anonymous"
	loginRefused   = "refused"
	loginUnknown   = "unknown"
)

// result is what check --online prints of one upstream. The names in JSON are
// for scripts, and stay. What is null was not tried, or not told.
type result struct {
	Upstream           string       `json:"upstream"` // host
	Keys               []string     `json:"keys"`     // in the configuration
	Status             string       `json:"status"`
	Image              string       `json:"image"` // that was asked for; "" where only the API's root was
	Reachable          bool         `json:"reachable"`
	LatencyMS          *float64     `json:"latency_ms"`
	Authentication     string       `json:"authentication"`
	Challenge          string       `json:"challenge"` // basic, bearer, or "" for none
	Head               *bool        `json:"head"`
	Range              *bool        `json:"range"`
	RateLimit          *resultLimit `json:"rate_limit"`
	RedirectsTo        []string     `json:"redirects_to"`
	ClockSkewSeconds   *int64       `json:"clock_skew_seconds"` // positive: the upstream's clock is ahead
	CertificateExpires *time.Time   `json:"certificate_expires"`
	Errors             []string     `json:"errors"`
	Remarks            []string     `json:"remarks"`
}

type resultLimit struct {
	Limit         int   `json:"limit"`
	Remaining     int   `json:"remaining"`
	WindowSeconds int64 `json:"window_seconds"` // 0: not told
}

// result says what a report means.
func (c *check) result(now time.Time) result {
	r := result{
		Upstream: c.host, Keys: c.keys, Status: statusOK, Image: c.image.String(), Authentication: loginUnknown,
		RedirectsTo: []string{}, Errors: []string{}, Remarks: []string{},
	}
	if c.offline {
		r.Status, r.Image = statusSkipped, ""
		return r
	}
	p := c.report
	r.Reachable, r.Challenge = p.Reached, p.Challenge
	r.Head, r.Range = asBool(p.Head), asBool(p.Range)
	r.RedirectsTo = append(r.RedirectsTo, p.Redirects...)
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
		r.RateLimit = &resultLimit{l.Limit, l.Remaining, int64(l.Window / time.Second)}
	}
	switch {
	case p.Accepted && p.Challenge == "" && c.certificate, p.Accepted && p.Challenge != "" && c.credentials:
		r.Authentication = loginAccepted
	case p.Accepted:
		r.Authentication = loginAnonymous
	}
	c.judge(&r)
	c.remark(&r, now)
	if len(r.Errors) > 0 {
		r.Status = statusFailed
	}
	return r
}

func asBool(s upstream.Support) *bool {
	if s == upstream.Untried {
		return nil
	}
	return new(s == upstream.Supported)
}

// judge says what ended a probe, as an error or as a remark.
func (c *check) judge(r *result) {
	if limit := c.report.RateLimit; limit != nil && limit.Limit > 0 && limit.Remaining == 0 {
		r.Errors = append(r.Errors, fmt.Sprintf("its rate limit of %s is used up: %s", describeLimit(r.RateLimit), c.moreRequests()))
	}
	failed := c.report.Err
	if failed == nil {
		return
	}
	text := failed.Explain(func(string) string { return strings.Join(c.keys, " and ") })
	switch {
	case failed.Class == upstream.ClassNotFound:
		r.Remarks = append(r.Remarks, text+": name an image that it has with --image")
	case failed.Class == upstream.ClassDenied && c.image.origin == public && !c.credentials:
		r.Remarks = append(r.Remarks, text+"; name an image that it has with --image")
	case failed.Class == upstream.ClassDenied:
		r.Authentication = loginRefused
		r.Errors = append(r.Errors, text)
	default:
		r.Errors = append(r.Errors, text)
	}
}

func (c *check) moreRequests() string {
	if c.credentials {
		return "wait, raise tag_ttl, or add another upstream"
	}
	return "wait, or set username and password for a limit of your own"
}

// remark says what is worth knowing, and no failure.
func (c *check) remark(r *result, now time.Time) {
	p := c.report
	say := func(format string, args ...any) { r.Remarks = append(r.Remarks, fmt.Sprintf(format, args...)) }
	if p.Head == upstream.Unsupported {
		say("it refuses HEAD: each check of a tag reads the manifest, which may count against a rate limit")
	}
	if p.Range == upstream.Unsupported {
		say("it ignores ranges: a download that breaks off begins anew")
	}
	if p.Skew.Abs() > skewLimit {
		direction := "ahead of"
		if p.Skew < 0 {
			direction = "behind"
		}
		say("its clock is %s %s this machine's: check NTP here, since tokens and certificates have times in them", p.Skew.Abs(), direction)
	}
	if left := p.CertificateExpires.Sub(now); !p.CertificateExpires.IsZero() && left < expirySoon {
		say("its certificate expires on %s", p.CertificateExpires.UTC().Format(time.DateOnly))
	}
	switch {
	case p.Err != nil:
	case c.image.origin == none:
		say("HEAD and ranges were not tried: name an image of it with --image")
	case p.Range == upstream.Untried && p.RateLimit != nil && c.image.origin != named:
		say("ranges were not tried, since that takes up to two requests of the rate limit: name an image with --image to do so")
	}
}

func describeLimit(l *resultLimit) string {
	text := fmt.Sprint(l.Limit)
	if l.WindowSeconds > 0 {
		text += " in " + units.Duration(time.Duration(l.WindowSeconds)*time.Second)
	}
	return text
}

func writeJSON(w io.Writer, results []result) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(results)
}

// writeTable writes one line for each upstream, and what there is to say below.
func writeTable(w io.Writer, results []result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "UPSTREAM\tSTATUS\tREACHABLE\tLOGIN\tHEAD\tRANGE\tRATE LIMIT\tREDIRECTS TO\tCLOCK\tASKED FOR")
	for _, r := range results {
		fmt.Fprintln(table, strings.Join(r.cells(), "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		for i, line := range append(r.Errors, r.Remarks...) {
			kind := "error"
			if i >= len(r.Errors) {
				kind = "remark"
			}
			if _, err := fmt.Fprintf(w, "\n%s: %s (%s):\n  %s\n", kind, r.Upstream, strings.Join(r.Keys, ", "), line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r result) cells() []string {
	if r.Status == statusSkipped {
		return []string{r.Upstream, r.Status, "", "", "", "", "", "", "", "nothing: offline = true"}
	}
	reachable, limit, clock := "no", "-", "?"
	if r.Reachable {
		reachable = fmt.Sprintf("%.0f ms", *r.LatencyMS)
	} else {
		limit = "?"
	}
	if l := r.RateLimit; l != nil {
		limit = fmt.Sprintf("%d of %s left", l.Remaining, describeLimit(l))
	}
	if s := r.ClockSkewSeconds; s != nil {
		clock = "ok"
		if skew := time.Duration(*s) * time.Second; skew.Abs() > skewLimit {
			clock = fmt.Sprintf("%+d s", *s)
		}
	}
	login := r.Authentication
	if login == loginUnknown {
		login = "?"
	}
	return []string{
		r.Upstream, r.Status, reachable, login, yesNo(r.Head), yesNo(r.Range), limit,
		cmp.Or(strings.Join(r.RedirectsTo, " "), "-"), clock, cmp.Or(r.Image, "/v2/"),
	}
}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return "?"
	case *b:
		return "yes"
	default:
		return "no"
	}
}
