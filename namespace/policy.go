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
	// matchTimeout cuts off a pattern that backtracks without end.
	matchTimeout = 50 * time.Millisecond
	// decisions is how many tags a policy remembers its verdict on.
	decisions = 4096
)

// tagPolicy tells immutable tags from those that can move. A verdict depends
// on the tag alone, so it is remembered: a pattern that runs into its timeout
// costs that once for each tag, not on each pull.
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
	verdicts, err := lru.New[string, bool](decisions)
	if err != nil {
		return nil, err
	}
	p := &tagPolicy{immutable: spec.ImmutableTags, verdicts: verdicts, logger: logger}
	for _, pattern := range spec.ImmutableTagsExclusions {
		re, err := regexp2.Compile(pattern, regexp2.None)
		if err != nil {
			return nil, fmt.Errorf("immutable_tags_exclusions: %w", err)
		}
		re.MatchTimeout = matchTimeout
		p.exclusions = append(p.exclusions, &exclusion{Regexp: re})
	}
	return p, nil
}

// isImmutable reports whether a tag, once cached, is never asked for again.
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

// excluded reports whether a pattern matches, or one could not say in time: a
// tag that may move must not be taken for one that cannot.
func (p *tagPolicy) excluded(tag string) bool {
	for _, re := range p.exclusions {
		matched, err := re.MatchString(tag)
		if err != nil {
			re.warned.Do(func() {
				p.logger.Warn("an immutable_tags_exclusions pattern took too long and was cut off; the tag counts as mutable. Simplify the pattern",
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
