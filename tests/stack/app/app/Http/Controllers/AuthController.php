<?php

namespace App\Http\Controllers;

use App\Models\ApiToken;
use App\Models\User;
use Illuminate\Http\JsonResponse;
use Illuminate\Http\Request;
use Illuminate\Http\Response;
use Illuminate\Support\Facades\Hash;
use Illuminate\Support\Str;

class AuthController
{
    public function login(Request $request): JsonResponse
    {
        $given = validator($request->all(), ['email' => 'required|email', 'password' => 'required|string'])->validate();
        $user = User::query()->where('email', $given['email'])->first();
        if ($user === null || ! Hash::check($given['password'], $user->password)) {
            return response()->json(['message' => 'These credentials do not match our records.'], 422);
        }
        $plain = Str::random(48);
        $expires = now()->addHours(2);
        ApiToken::query()->create(['user_id' => $user->id, 'token_hash' => hash('sha256', $plain), 'expires_at' => $expires]);
        $user->forceFill(['last_login_at' => now()])->save();

        return response()->json(['token' => $plain, 'user_id' => $user->id, 'expires_at' => $expires->toIso8601String()]);
    }

    public function logout(Request $request): Response
    {
        $request->attributes->get('token')->delete();

        return response()->noContent();
    }
}
