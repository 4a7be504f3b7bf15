<?php

namespace App\Http\Controllers;

use App\Models\User;
use Illuminate\Http\JsonResponse;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\DB;
use Illuminate\Support\Facades\Hash;

class UserController
{
    public function show(int $id): JsonResponse
    {
        $user = User::query()->find($id);
        if ($user === null) {
            return response()->json(['message' => 'No such user.'], 404);
        }

        // "phone" is decrypted with APP_KEY: a wrong key makes this a 500.
        return response()->json($user->only(['id', 'name', 'email', 'role', 'phone', 'balance', 'preferences'])
            + ['orders_total' => DB::selectOne('SELECT user_orders_total(?) AS t', [$id])->t]);
    }

    public function store(Request $request): JsonResponse
    {
        $given = validator($request->all(), [
            'name' => 'required|string|max:190',
            'email' => 'required|email|max:190|unique:users,email',
            'password' => 'required|string|min:12',
            'phone' => 'nullable|string|max:40',
            'preferences' => 'nullable|array',
        ])->validate();
        $user = new User;
        $user->forceFill(['password' => Hash::make($given['password'])] + $given)->save();

        return response()->json(['id' => $user->id], 201);
    }
}
