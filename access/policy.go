package access

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

const (
	// maxRule bounds the text of a rule, in characters. Rules have some hundred.
	maxRule = 16 << 10
	// maxNesting bounds the depth of a rule, and with it the stack of the parser.
	maxNesting = 100
)

// Policy is a list of rules in CEL (Common Expression Language), and the answer if none
// of them matches.
type Policy struct {
	// DefaultAllow is set if the rules deny, and everything else is allowed.
	// Otherwise the rules allow, and everything else is denied.
	DefaultAllow bool
	Rules        []string
}

// RuleError is a rule that does not compile.
type RuleError struct {
	Index int // in Policy.Rules
	Err   error
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %d %v", e.Index, e.Err) }

func (e *RuleError) Unwrap() error { return e.Err }

// policy is a compiled [Policy].
//
// A nil *policy allows everything.
type policy struct {
	defaultAllow bool
	programs     []cel.Program
	notes        notes
}

// notes reports on which properties of a request the answer of a policy depends.
type notes struct {
	// readsContent is set if a rule reads more of a request than its action and its
	// repository, so that the answer holds for one content only.
	readsContent bool
	// readsAddress is set if a rule reads the address of the client.
	readsAddress bool
}

func (p *policy) noted() notes {
	if p == nil {
		return notes{}
	}
	return p.notes
}

// allowsAll reports whether the policy has nothing to deny.
func (p *policy) allowsAll() bool { return p == nil || p.defaultAllow && len(p.programs) == 0 }

// CheckPolicy returns the *[RuleError] of the first rule that does not compile.
func CheckPolicy(p Policy) error {
	_, err := newPolicy(&p)
	return err
}

// newPolicy compiles a policy. It returns a *[RuleError] for a rule that does not
// compile, and nil for no policy.
func newPolicy(p *Policy) (*policy, error) {
	if p == nil {
		return nil, nil //nolint:nilnil // no policy is the answer
	}
	language, err := newEnv()
	if err != nil {
		return nil, err
	}
	compiled := &policy{defaultAllow: p.DefaultAllow}
	for i, text := range p.Rules {
		program, checked, err := compileRule(language, text)
		if err != nil {
			return nil, &RuleError{Index: i, Err: err}
		}
		compiled.programs = append(compiled.programs, program)
		compiled.notes.read(checked.NativeRep().Expr())
	}
	return compiled, nil
}

// newEnv returns the variables and functions of rules.
func newEnv() (*cel.Env, error) {
	named := cel.MapType(cel.StringType, cel.DynType)
	return cel.NewCustomEnv(
		// The standard contains is one of strings only, and knows no other types even
		// beside overloads for them.
		cel.StdLib(cel.StdLibSubset(env.NewLibrarySubset().AddExcludedFunctions(env.NewFunction(overloads.Contains)))),
		cel.Function(overloads.Contains, cel.MemberOverload("any_contains_any",
			[]*cel.Type{cel.DynType, cel.DynType}, cel.BoolType, cel.BinaryBinding(contains))),
		cel.Variable("identity", named),
		cel.Variable("request", named),
		cel.ParserExpressionSizeLimit(maxRule),
		cel.ParserRecursionLimit(maxNesting),
		cel.RegexProgramSizeLimit(maxPattern),
	)
}

// contains reports whether a string has a part, a list an element, or a map a key.
func contains(container, element ref.Val) ref.Val {
	switch c := container.(type) {
	case types.String:
		return types.StringContains(c, element)
	case traits.Container:
		return c.Contains(element)
	default:
		return types.MaybeNoSuchOverloadErr(container)
	}
}

func compileRule(language *cel.Env, text string) (cel.Program, *cel.Ast, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil, errors.New("is empty; remove it")
	}
	checked, issues := language.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, nil, fmt.Errorf("does not compile: %s", firstLine(err))
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, nil, fmt.Errorf("yields %s; it must yield true or false", t)
	}
	if err := unknownField(checked.NativeRep().Expr()); err != nil {
		return nil, nil, err
	}
	program, err := language.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostTracking(costs{}), cel.CostLimit(maxCost))
	if err != nil {
		return nil, nil, fmt.Errorf("does not compile: %s", firstLine(err))
	}
	return program, checked, nil
}

// fields are those of the values that rules read. The claims of a token have any names.
var fields = map[string][]string{
	"identity":             {"id", "username", "client_ip", "certificate", "oidc"},
	"identity.certificate": {"common_names", "organizations"},
	"identity.oidc":        {"provider_name", "provider_type", "claims"},
	"request":              {"action", "namespace", "reference", "digest", "artifact_type", "n", "last"},
}

// pushed are fields of requests that write. Rules which Angos reads too may name them: Weir
// has no such requests, so the fields are always absent.
var pushed = map[string][]string{"request": {"from", "mount", "tags", "uuid"}}

// unknownField returns an error if an expression names a field that no value has. The
// compiler knows maps only, and the rule would fail at each request.
func unknownField(expr ast.Expr) (err error) {
	ast.PostOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		operand, field := selection(e)
		if operand == nil {
			return
		}
		of := path(operand)
		if known := fields[of]; known != nil && !slices.Contains(known, field) && !slices.Contains(pushed[of], field) {
			err = fmt.Errorf("reads %s.%s, which does not exist. The fields of %s are %s", of, field, of, strings.Join(known, ", "))
		}
	}))
	return err
}

// selection returns the operand and the field of a.b and a["b"], and nil for any other expression.
func selection(e ast.Expr) (operand ast.Expr, field string) {
	switch e.Kind() {
	case ast.SelectKind:
		return e.AsSelect().Operand(), e.AsSelect().FieldName()
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || call.Args()[1].Kind() != ast.LiteralKind {
			return nil, ""
		}
		if name, ok := call.Args()[1].AsLiteral().(types.String); ok {
			return call.Args()[0], string(name)
		}
	}
	return nil, ""
}

// path returns a.b for a selection of fields of a variable, and "" for any other expression.
func path(e ast.Expr) string {
	if e.Kind() == ast.IdentKind {
		return e.AsIdent()
	}
	if operand, field := selection(e); operand != nil {
		if of := path(operand); of != "" {
			return of + "." + field
		}
	}
	return ""
}

// firstLine returns an error without the picture of its place, which has several lines.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return strings.TrimPrefix(line, "ERROR: <input>:")
}

// read notes the properties of requests and identities that an expression reads.
func (n *notes) read(expr ast.Expr) {
	ast.PostOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.IdentKind {
			return
		}
		// A variable that is used as a whole, as in request == ..., is noted here and
		// as the operand of a selection below.
		switch e.AsIdent() {
		case "request":
			n.readsContent = n.readsContent || !selected(expr, e.ID(), "action", "namespace")
		case "identity":
			n.readsAddress = n.readsAddress || !selected(expr, e.ID(), "id", "username", "certificate", "oidc")
		}
	}))
}

// selected reports whether an expression reads only some fields of a variable, at the
// place with an ID.
func selected(expr ast.Expr, id int64, fields ...string) bool {
	found := false
	ast.PostOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.SelectKind || e.AsSelect().Operand().ID() != id {
			return
		}
		for _, field := range fields {
			found = found || e.AsSelect().FieldName() == field
		}
	}))
	return found
}

// errNotBoolean is the failure of a rule that yields something else than true or false.
var errNotBoolean = errors.New("it yields neither true nor false")

// errManySteps is the failure of a rule that takes too long.
var errManySteps = fmt.Errorf("takes more than %d steps. Compare fewer values, or shorter ones", maxCost)

// allows evaluates the rules in their order. The first one that yields true turns the
// default around. An evaluation that fails denies, and so does a rule that yields no
// boolean; the error then says which.
func (p *policy) allows(variables map[string]any) (bool, error) {
	if p == nil {
		return true, nil
	}
	for i, program := range p.programs {
		value, _, err := program.Eval(variables)
		if ended, ok := errors.AsType[interpreter.EvalCancelledError](err); ok && ended.Cause == interpreter.CostLimitExceeded {
			err = errManySteps
		}
		if err != nil {
			return false, &RuleError{Index: i, Err: err}
		}
		matches, ok := value.Value().(bool)
		if !ok {
			return false, &RuleError{Index: i, Err: errNotBoolean}
		}
		if matches {
			return !p.defaultAllow, nil
		}
	}
	return p.defaultAllow, nil
}

// variables returns the values that rules read. A property that an identity lacks is
// null. One that a request lacks is absent, and a rule that reads it fails: has()
// tells.
func variables(id *Identity, q Question) map[string]any {
	return map[string]any{"identity": identityValue(id), "request": requestValue(q)}
}

func identityValue(id *Identity) map[string]any {
	// A client without a certificate has one without names: the list is then empty.
	certificate := map[string]any{"common_names": []string{}, "organizations": []string{}}
	if c := id.Certificate; c != nil {
		certificate["organizations"] = c.Organizations
		if c.CommonName != "" {
			certificate["common_names"] = []string{c.CommonName}
		}
	}
	value := map[string]any{
		"id": orNull(id.ID), "username": orNull(id.User), "client_ip": nil, "certificate": certificate, "oidc": nil,
	}
	if id.Address.IsValid() {
		value["client_ip"] = id.Address.String()
	}
	if o := id.OIDC; o != nil {
		value["oidc"] = map[string]any{"provider_name": o.Provider, "provider_type": o.Type, "claims": o.Claims}
	}
	return value
}

func requestValue(q Question) map[string]any {
	value := map[string]any{"action": string(q.Action)}
	for name, text := range map[string]string{
		"namespace": q.Namespace, "reference": q.Reference, "digest": q.digest(), "artifact_type": q.ArtifactType, "last": q.Page.Last,
	} {
		if text != "" {
			value[name] = text
		}
	}
	// A number for Angos, too.
	if n, err := strconv.ParseInt(q.Page.N, 10, 64); err == nil {
		value["n"] = n
	}
	return value
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// digest returns the digest that is a field of its own for Angos: that of a manifest is
// its reference.
func (q Question) digest() string {
	if q.Action == GetManifest {
		return ""
	}
	return string(q.Digest)
}
