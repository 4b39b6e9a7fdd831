package access

import (
	"math"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

const (
	// maxCost bounds the steps of one evaluation. A step takes about 0.2 µs, so that the worst
	// rule takes some milliseconds. A rule over a list of a thousand groups takes some
	// thousand steps.
	maxCost = 20_000
	// maxPattern bounds the instructions of a regular expression.
	maxPattern = 500
	// charactersOfStep is how much of a text one step reads.
	charactersOfStep = 10
	// zoneCost is what reading the rules of a time zone takes.
	zoneCost = 500
)

// costs returns the steps of calls for the limit of an evaluation. The library counts one step
// for a call whose arguments have no type before the evaluation, as claims have none, and for
// the contains of this package.
type costs struct{}

// CallCost returns the steps of a call: those of reading all its arguments.
func (costs) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	steps := 1
	for _, arg := range args {
		steps = read(arg, steps)
	}
	switch {
	case function == "matches" && len(args) == 2:
		text, isText := args[0].(types.String)
		pattern, isPattern := args[1].(types.String)
		if isText && isPattern {
			// Each character may meet each instruction.
			steps += (len(text) + 1) * instructions(string(pattern)) / 4
		}
	case strings.HasPrefix(function, "get") && len(args) == 2: // such as getHours of a time in a zone
		steps += zoneCost
	}
	cost := uint64(steps)
	return &cost
}

// instructions returns about how many instructions a regular expression has.
func instructions(pattern string) int {
	// Only repetitions make more instructions than the pattern has characters, about.
	if !strings.Contains(pattern, "{") {
		return len(pattern) + 1
	}
	size, err := types.RegexProgramSize(pattern)
	if err != nil {
		return len(pattern) + 1 // the call fails
	}
	return size
}

// read adds the steps of reading a value to others, and stops beyond the limit.
func read(value ref.Val, steps int) int {
	switch v := value.(type) {
	case types.String:
		return steps + len(v)/charactersOfStep
	case types.Bytes:
		return steps + len(v)/charactersOfStep
	case traits.Mapper: // an Iterable too, of its keys
		for keys := v.Iterator(); keys.HasNext() == types.True && steps <= maxCost; {
			key := keys.Next()
			steps = read(v.Get(key), read(key, steps+1))
		}
	case traits.Lister:
		for elements := v.Iterator(); elements.HasNext() == types.True && steps <= maxCost; {
			steps = read(elements.Next(), steps+1)
		}
	}
	return min(steps, math.MaxInt32)
}
