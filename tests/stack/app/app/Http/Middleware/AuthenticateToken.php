<?php

namespace App\Http\Middleware;

use App\Models\ApiToken;
use Closure;
use Illuminate\Http\Request;

class AuthenticateToken
{
    public function handle(Request $request, Closure $next)
    {
        $given = (string) $request->bearerToken();
        $token = $given === '' ? null : ApiToken::query()
            ->where('token_hash', hash('sha256', $given))
            ->where('expires_at', '>', now())
            ->first();
        if ($token === null) {
            return response()->json(['message' => 'Unauthenticated.'], 401, ['WWW-Authenticate' => 'Bearer']);
        }
        $request->attributes->set('token', $token);
        $request->setUserResolver(static fn () => $token->user);

        return $next($request);
    }
}
