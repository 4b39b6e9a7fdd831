package upstream

import "errors"

// ClassOf returns the class of a failure of this package: that of the [*Error]
// in its chain, ClassOK where there is none.
func ClassOf(err error) Class {
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed.Class
	}
	return ClassOK
}
