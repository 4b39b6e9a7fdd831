package config

import (
	"fmt"
	"slices"
	"strings"
)

// patternWarnings returns a warning about patterns that may backtrack without end.
func (c *Config) patternWarnings() []string {
	var keys []string
	find := func(key string, patterns []string) {
		for i, pattern := range patterns {
			if nestsQuantifiers(pattern) {
				keys = append(keys, elementOf(key, i))
			}
		}
	}
	find("global.immutable_tags_exclusions", c.Global.ImmutableTagsExclusions)
	for _, r := range c.Namespaces {
		// A repository without patterns of its own has those of [global].
		if slices.Equal(r.ImmutableTagsExclusions, c.Global.ImmutableTagsExclusions) {
			continue
		}
		find(keyIn("repository", r.Key)+".immutable_tags_exclusions", r.ImmutableTagsExclusions)
	}
	if len(keys) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("a repeated group contains another repetition, as in (a+)+, which can take exponential time. "+
		"A tag for which it takes too long counts as mutable. Simplify the patterns: %s", c.named(keys))}
}

// nestsQuantifiers reports whether a pattern repeats a group that holds a repetition
// itself, both without a bound. It reads the syntax of regexp2 as far as that needs,
// which package regexp/syntax does not know.
func nestsQuantifiers(pattern string) bool {
	repeats := []bool{false} // for each open group: whether it holds a repetition
	for i := 0; i < len(pattern); i++ {
		closed := false // a group that holds a repetition
		switch pattern[i] {
		case '\\':
			i++ // the next character stands for itself
		case '[':
			i = endOfClass(pattern, i)
		case '(':
			repeats = append(repeats, false)
			if strings.HasPrefix(pattern[i:], "(?") {
				i++ // this question mark is not a quantifier
			}
			continue
		case ')':
			if len(repeats) == 1 {
				continue // not a valid pattern
			}
			closed = repeats[len(repeats)-1]
			repeats = repeats[:len(repeats)-1]
		}
		repeated := i+1 < len(pattern) && unbounded(pattern[i+1:])
		if repeated && closed {
			return true
		}
		repeats[len(repeats)-1] = repeats[len(repeats)-1] || repeated || closed
	}
	return false
}

// endOfClass returns the index of the bracket that ends the class which begins at an
// index.
func endOfClass(pattern string, begin int) int {
	for i := begin + 1; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			i++
		case ']':
			// A bracket at the start of a class belongs to it.
			if i > begin+1 && pattern[begin+1:i] != "^" {
				return i
			}
		}
	}
	return len(pattern) - 1
}

// unbounded reports whether a text begins with a quantifier without an upper bound.
func unbounded(text string) bool {
	switch text[0] {
	case '*', '+':
		return true
	case '{': // {n,}
		count, _, closed := strings.Cut(text[1:], "}")
		return closed && len(count) > 1 && strings.HasSuffix(count, ",") && strings.Trim(count[:len(count)-1], "0123456789") == ""
	default:
		return false
	}
}
