package namespace

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dlclark/regexp2"
	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// matchTimeout cuts off a pattern that backtracks without end. A sane pattern
	// needs microseconds for a tag of at most 128 bytes.
	matchTimeout = 50 * time.Millisecond
	// maxVerdicts is how many tags a policy remembers: those of a large
	// repository, in less than 1 MB.
	maxVerdicts = 4096
)

// tagPolicy tells immutable tags from mutable ones. A verdict depends on the tag
// alone, so it is remembered: a pattern that runs into its timeout costs that time
// once for each tag, and not on each pull.
type tagPolicy struct {
	immutable  bool
	exclusions []*exclusion
	verdicts   *lru.Cache[string, bool]
	logger     *slog.Logger
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
	if !p.immutable {
		return false
	}
	if verdict, ok := p.verdicts.Get(tag); ok {
		return verdict
	}
	verdict := !p.excluded(tag)
	p.verdicts.Add(tag, verdict)
	return verdict
}

// excluded reports whether a pattern matches a tag or takes too long for it: a
// mutable tag must not be taken for an immutable one.
func (p *tagPolicy) excluded(tag string) bool {
	for _, re := range p.exclusions {
		matched, err := re.MatchString(tag)
		if err != nil {
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
