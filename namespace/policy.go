package namespace

import (
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/dlclark/regexp2"
	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// matchTimeout cuts off a pattern that backtracks without end. A sane pattern
	// needs microseconds for a tag of at most 128 bytes.
	matchTimeout = 50 * time.Millisecond
	// tagBudget bounds all patterns of a policy together, for one tag.
	tagBudget = 2 * matchTimeout
	// policyBudget bounds the time of all patterns and tags of a policy within
	// budgetPeriod: an upstream can name any number of tags.
	policyBudget = time.Second
	budgetPeriod = time.Minute
	// maxVerdicts is how many tags a policy remembers: those of a large
	// repository, in less than 1 MB.
	maxVerdicts = 4096
)

// derivedTag matches the tags that tools move by design: the fallback tag of
// referrers (distribution-spec, "Referrers Tag Schema"), whose hash is cut to 64
// digits, and tags with a suffix, such as cosign's .sig, .att and .sbom. A new
// signature moves them.
var derivedTag = sync.OnceValue(func() *regexp.Regexp { // compiled if tags are immutable
	return regexp.MustCompile(`^(sha[0-9]{3}|blake3)-[0-9a-f]{32,128}(\..*)?$`)
})

// tagPolicy distinguishes immutable tags from mutable ones. A verdict depends on the tag
// alone, so it is remembered: a pattern that runs into its timeout costs that time
// once for each tag, and not on each pull.
type tagPolicy struct {
	immutable  bool
	exclusions []*exclusion
	verdicts   *lru.Cache[string, bool]
	logger     *slog.Logger

	mu     sync.Mutex
	period time.Time     // begin of the current budgetPeriod
	spent  time.Duration // by patterns within it
	warned bool          // that the budget was used up, within it
}

type exclusion struct {
	*regexp2.Regexp
	warned sync.Once
}

func newTagPolicy(spec Spec, logger *slog.Logger) (*tagPolicy, error) {
	verdicts, err := lru.New[string, bool](maxVerdicts)
	if err != nil {
		return nil, err
	}
	p := &tagPolicy{immutable: spec.ImmutableTags, verdicts: verdicts, logger: logger}
	for _, pattern := range spec.ImmutableTagsExclusions {
		re, err := regexp2.Compile(pattern, regexp2.None)
		if err != nil {
			return nil, fmt.Errorf("the pattern %q of mutable tags does not compile: %w", pattern, err)
		}
		// regexp2 backtracks, unlike package regexp.
		re.MatchTimeout = matchTimeout
		p.exclusions = append(p.exclusions, &exclusion{Regexp: re})
	}
	return p, nil
}

// isImmutable reports whether the upstream is never asked again for a cached tag.
func (p *tagPolicy) isImmutable(tag string) bool {
	if !p.immutable || derivedTag().MatchString(tag) {
		return false
	}
	if verdict, ok := p.verdicts.Get(tag); ok {
		return verdict
	}
	if len(p.exclusions) == 0 {
		return true
	}
	// The tag counts as mutable, and is not remembered: its turn comes later.
	if p.exhausted(tag) {
		return false
	}
	begin := time.Now()
	verdict := !p.excluded(tag)
	p.spend(time.Since(begin))
	p.verdicts.Add(tag, verdict)
	return verdict
}

// exhausted reports whether patterns have used up the time that they have.
func (p *tagPolicy) exhausted(tag string) bool {
	p.mu.Lock()
	if now := time.Now(); now.Sub(p.period) >= budgetPeriod {
		p.period, p.spent, p.warned = now, 0, false
	}
	exhausted := p.spent >= policyBudget
	warn := exhausted && !p.warned
	p.warned = p.warned || exhausted
	p.mu.Unlock()
	if warn {
		p.logger.Warn("the patterns of mutable tags have used up their time for this minute. Further tags count as mutable. Simplify the patterns",
			"tag", tag, "limit", policyBudget)
	}
	return exhausted
}

func (p *tagPolicy) spend(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spent += d
}

// excluded reports whether a pattern matches a tag or takes too long for it: a
// mutable tag must not be taken for an immutable one.
func (p *tagPolicy) excluded(tag string) bool {
	begin := time.Now()
	for _, re := range p.exclusions {
		matched, err := re.MatchString(tag)
		// Each pattern may stay below its own limit, and all together not.
		if err != nil || !matched && time.Since(begin) > tagBudget {
			re.warned.Do(func() {
				p.logger.Warn("a pattern of mutable tags took too long and was cut off. The tag counts as mutable. Simplify the pattern",
					"pattern", re.String(), "tag", tag, "limit", matchTimeout)
			})
			return true
		}
		if matched {
			return true
		}
	}
	return false
}
